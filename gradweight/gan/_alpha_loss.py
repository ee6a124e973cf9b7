"""The alpha-loss of one logit, with derivatives that are right however sure the discriminator is."""

from torch import Tensor

from .. import adversarial

__all__ = ["alpha_loss"]


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
        >>> import math, torch
        >>> alpha_loss(torch.tensor([0.0, 2.0]), 0.5)
        tensor([1.0000, 0.1353])
        >>> alpha_loss(torch.tensor([0.0, 2.0]), math.inf)
        tensor([0.5000, 0.1192])

    Reference:
        Sypherd, Diaz, Cava, Dasarathy, Kairouz, Sankar. A Tunable Loss Function for Robust Classification. IEEE
        Transactions on Information Theory 2022, arXiv:1906.02314.
    """
    loss: Tensor = adversarial.alpha_loss(logits, alpha)
    return loss
