"""The alpha-loss of one logit, with derivatives that are right however sure the discriminator is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["alpha_loss", "check_alpha"]


def alpha_loss(logits: Tensor, alpha: float) -> Tensor:
    """The alpha-loss of calling a sample real, from its logit.

    With ``D = sigmoid(s)`` and ``b = 1 - 1/alpha``: ``l(1, s) = (1 - D^b) / b = -expm1(b log D) / b``, elementwise; the
    loss of calling it fake is ``l(0, s) = l(1, -s)``. In [0, 1/b] for alpha > 1, [0, inf) else; in at least float32.

    =====  ====================  ===========================
    alpha  l(1, s)               derivative by s
    =====  ====================  ===========================
    1/2    ``exp(-s)``           ``-exp(-s)``
    1      ``log(1 + exp(-s))``  ``-(1 - D)``
    inf    ``1 - D``             ``-D (1 - D)``
    any    ``(1 - D^b) / b``     ``-(1 - D) D^b``
    =====  ====================  ===========================

    For alpha < 1 the derivative grows like ``exp(b s)`` as s falls, so that it leaves the range of float32 where
    ``b s > 88``; nothing is lost before. Derivatives of every order, by either mode, keep their digits at any logit,
    also where they are tiny, unlike those of ``torch.nn.functional.logsigmoid`` and ``softplus``.

    Args:
        logits: of any shape.
        alpha: in (0, inf].

    Raises:
        ValueError: alpha out of its range.

    Example:
        >>> alpha_loss(torch.tensor([0.0, 2.0]), 0.5)
        tensor([1.0000, 0.1353])
        >>> alpha_loss(torch.tensor([0.0, 2.0]), math.inf)
        tensor([0.5000, 0.1192])

    Reference:
        Sypherd, Diaz, Cava, Dasarathy, Kairouz, Sankar. A Tunable Loss Function for Robust Classification. IEEE
        Transactions on Information Theory 2022, arXiv:1906.02314.
    """
    check_alpha(alpha, "alpha_loss", "alpha")
    # exp(12) is beyond float16, and alpha = 1/2 has it at s = -12, where no clamp of D is in force
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    b = 1.0 if alpha == math.inf else (alpha - 1) / alpha  # 1 - 1/alpha loses its digits near alpha = 1
    # All of it is made of e = exp(-|s|) in (0, 1], so that no derivative is a difference of nearly equal numbers. Those
    # of logsigmoid have the factor 1 - sigmoid, which rounds to 0 in float32 where s > 17; softplus is the identity
    # above 20; abs and minimum have second derivatives at s = 0 that are none of the loss's.
    negative = logits < 0
    log_d = torch.where(negative, logits, 0) - torch.log1p(torch.exp(torch.where(negative, logits, -logits)))
    if b == 0:
        return -log_d
    x = b * log_d
    power_minus_1 = torch.expm1(x)
    if b > 0:
        # torch takes expm1(x) + 1 for the derivative, of which nothing but rounding is left where x is far below 0
        power_minus_1 = torch.where(x < -1, torch.exp(x) - 1, power_minus_1)
    return -power_minus_1 / b


def check_alpha(alpha: float, owner: str, field: str) -> None:
    """Raise `ValueError` unless ``alpha`` is an order."""
    if not alpha > 0:
        raise ValueError(f"{owner} needs {field} in (0, inf]; got {alpha}")
