"""The alpha-loss of one logit, with derivatives that are right however sure the discriminator is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["alpha_loss", "check_alpha"]


def alpha_loss(logits: Tensor, alpha: float) -> Tensor:
    """The alpha-loss of calling a sample real, from its logit.

    With ``D = sigmoid(s)`` and ``b = 1 - 1/alpha``: ``l(1, s) = (1 - D^b) / b = -expm1(b log D) / b``, elementwise; the
    loss of calling it fake is ``l(0, s) = l(1, -s)``. In [0, 1/b] for alpha > 1, [0, inf) else.

    =====  ====================  ===========================
    alpha  l(1, s)               derivative by s
    =====  ====================  ===========================
    1/2    ``exp(-s)``           ``-exp(-s)``
    1      ``log(1 + exp(-s))``  ``-(1 - D)``
    inf    ``1 - D``             ``-D (1 - D)``
    any    ``(1 - D^b) / b``     ``-(1 - D) D^b``
    =====  ====================  ===========================

    For alpha < 1 the derivative grows like ``exp(-b s)`` as s falls, so that it leaves the range of float32 where
    ``b s > 88``; nothing is lost before. Derivatives of every order keep their digits at any logit, also where they
    are tiny, unlike those of ``torch.nn.functional.logsigmoid`` and ``softplus``.

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
    b = 1.0 if alpha == math.inf else (alpha - 1) / alpha  # 1 - 1/alpha loses its digits near alpha = 1
    return _AlphaLoss.apply(logits, b)  # type: ignore[no-any-return, no-untyped-call]


class _AlphaLoss(torch.autograd.Function):
    """``(1 - D^b) / b`` with its derivative ``-D^b (1 - D)`` in terms of itself, and so on to any order.

    Composed of torch's own functions, the derivative of expm1 would be ``1 + expm1(b log D)``, exactly 0 in float32
    where ``b log D < -17``, and the second derivative of logsigmoid ``sigmoid (1 - sigmoid)``, 0 where s > 17. softplus
    is the identity above 20.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, b: float) -> Tensor:
        return -logsigmoid(logits) if b == 0 else -torch.expm1(b * logsigmoid(logits)) / b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        logits, ctx.b = inputs
        ctx.save_for_backward(logits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        log_d, log_1_minus_d = -_AlphaLoss.apply(logits, 0.0), -_AlphaLoss.apply(-logits, 0.0)  # type: ignore[no-untyped-call]
        return -grad * torch.exp(ctx.b * log_d + log_1_minus_d), None


def check_alpha(alpha: float, owner: str, field: str) -> None:
    """Raise `ValueError` unless ``alpha`` is an order."""
    if not alpha > 0:
        raise ValueError(f"{owner} needs {field} in (0, inf]; got {alpha}")
