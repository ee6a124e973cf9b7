"""What a GAN in JAX needs beside a rule: scores, alpha-losses, AdvAs and penalties, the twins of `gradweight.gan`."""

from ._alpha_loss import alpha_loss
from .advas import advas_penalty, advas_penalty_half_batches, advas_penalty_unbiased
from .penalties import gradient_penalty, r1_penalty, r2_penalty
from .scores import critic_scores, probability_scores

__all__ = [
    "advas_penalty",
    "advas_penalty_half_batches",
    "advas_penalty_unbiased",
    "alpha_loss",
    "critic_scores",
    "gradient_penalty",
    "probability_scores",
    "r1_penalty",
    "r2_penalty",
]
