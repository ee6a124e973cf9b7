"""The (alpha_D, alpha_G) family: vanilla, Hellinger and total-variation GANs as points of one line."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..adversarial import check_alpha
from ._alpha_loss import alpha_loss
from .losses import PerSampleLoss

__all__ = ["Alpha"]


@dataclass(frozen=True)
class Alpha(PerSampleLoss):
    """The alpha-loss with an order of its own for each player, (alpha_D, alpha_G).

    With l_a the `alpha_loss`: discriminator ``real = E l_{alpha_D}(1, s(x))``, ``fake = E l_{alpha_D}(0, s(G(z)))``.
    Generator ``E l_{alpha_G}(1, s(G(z)))``, or, saturating, ``-E l_{alpha_G}(0, s(G(z)))``.

    (1, 1) is `Vanilla`, (1/2, 1/2) the Hellinger GAN, (inf, inf) total variation. An optimal discriminator is
    ``p_r^alpha_D / (p_r^alpha_D + p_g^alpha_D)``: alpha_D < 1 keeps it from being sure, alpha_G > 1 keeps the generator
    from following a few outliers.

    For an order below 1 the gradient grows without bound as a sample goes to the wrong side. The authors' code holds
    D within ``[1e-7, 1 - 1e-7]``, and where it does the gradient is zero: a filter of the worst samples, which their
    figures rest on. ``clamp=1e-7`` does the same, on the logits, ``|s| <= log((1 - 1e-7) / 1e-7) = 16.1``, which is
    that interval without its rounding in float32 (where theirs ends at ``1 - 1.2e-7``).

    Args:
        alpha_d: the discriminator's order, in (0, inf].
        alpha_g: the generator's order, in (0, inf].
        saturating: whether the generator's term is minus the fake term (of its own order).
        clamp: how near D may come to 0 and 1, in (0, 1/2); None for as near as it likes.

    Raises:
        ValueError: a hyperparameter out of its range.

    Example:
        >>> import torch
        >>> Alpha(0.5, 1.0).discriminator(torch.zeros(4), torch.zeros(4))
        {'real': tensor(1.), 'fake': tensor(1.)}
        >>> Alpha(0.5, 1.0).generator(torch.zeros(4))
        {'fake': tensor(0.6931)}

    Reference:
        Welfert, Kurri, Otstot, Sankar. Addressing GAN Training Instabilities via Tunable Classification Losses.
        arXiv:2310.18291. Kurri, Sypherd, Sankar. Realizing GANs via a Tunable Loss Function. ITW 2021,
        arXiv:2106.05232, for one alpha.
    """

    alpha_d: float = 1.0
    alpha_g: float = 1.0
    saturating: bool = False
    clamp: float | None = None

    def __post_init__(self) -> None:
        for field in ("alpha_d", "alpha_g"):
            check_alpha(getattr(self, field), "Alpha", field)
        if self.clamp is not None and not 0 < self.clamp < 0.5:
            raise ValueError(f"Alpha needs clamp in (0, 1/2), the least distance of D from 0 and 1; got {self.clamp}")

    def on_real(self, logits: Tensor) -> Tensor:
        """``l_{alpha_D}(1, s)``."""
        return alpha_loss(self._clamped(logits), self.alpha_d)

    def on_fake(self, logits: Tensor) -> Tensor:
        """``l_{alpha_D}(0, s)``."""
        return alpha_loss(-self._clamped(logits), self.alpha_d)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """``{"fake": E l_{alpha_G}(1, s)}``, or saturating ``{"fake": -E l_{alpha_G}(0, s)}``."""
        logits = self._clamped(fake_logits)
        loss = -alpha_loss(-logits, self.alpha_g) if self.saturating else alpha_loss(logits, self.alpha_g)
        return {"fake": loss.mean()}

    def _clamped(self, logits: Tensor) -> Tensor:
        if self.clamp is None:
            return logits
        bound = math.log1p(-self.clamp) - math.log(self.clamp)
        return logits.clamp(-bound, bound)
