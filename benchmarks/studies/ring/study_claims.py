"""What the papers claim of GANs on the ring, as far as the study can judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ADVAS", "ALPHA", "AWD", "CLAIMS", "Claim"]


@dataclass(frozen=True)
class Claim:
    """What a paper says of two methods, by success (more is better) or failure, and its numbers."""

    says: str
    method: str
    other: str
    metric: Literal["success", "failure"]
    paper: str


ALPHA, AWD, ADVAS = "(alpha_D, alpha_G)-GAN", "Adaptive Weighted Discriminator", "AdvAs"
CLAIMS = [
    Claim(
        f"{ALPHA}, saturating: alpha_D = 0.5 covers all modes more often than the vanilla GAN",
        "saturating/alpha (0.5, 1)",
        "saturating/plain",
        "success",
        "79.5% against 46.5%",
    ),
    Claim(
        f"{ALPHA}, saturating: alpha_D = 0.5 fails less often",
        "saturating/alpha (0.5, 1)",
        "saturating/plain",
        "failure",
        "4.5% against 29.5%",
    ),
    Claim(
        f"{ALPHA}, non-saturating: (0.5, 1.2) covers all modes more often than the vanilla GAN",
        "non-saturating/alpha (0.5, 1.2)",
        "non-saturating/plain",
        "success",
        "44.5% against 22%",
    ),
    Claim(
        f"{ALPHA}, non-saturating: (0.5, 1.2) covers all modes more often than least squares",
        "non-saturating/alpha (0.5, 1.2)",
        "non-saturating/least squares",
        "success",
        "44.5% against 33%",
    ),
    Claim(
        f"{AWD}, section 5.3: settles on all modes where the plain GAN does not",
        "non-saturating/aw",
        "non-saturating/plain",
        "success",
        "one run of each, in another setting",
    ),
    Claim(
        f"{AWD}, appendix B: Algorithm 1 does better than Algorithm 2",
        "non-saturating/aw",
        "non-saturating/aw-2",
        "success",
        "on images, by FID and IS",
    ),
    Claim(
        f"{ADVAS}: makes training more stable",
        "non-saturating/advas",
        "non-saturating/plain",
        "failure",
        "on images, by FID",
    ),
    Claim(
        "our question: adaptive weights help under a saturating generator, too",
        "saturating/aw",
        "saturating/plain",
        "failure",
        "none",
    ),
    Claim(
        "our question: alpha_D = 0.5 covers all modes more often with the published code's clamp than without",
        "saturating/alpha (0.5, 1)",
        "saturating/alpha (0.5, 1), no clamp",
        "success",
        "none",
    ),
]
