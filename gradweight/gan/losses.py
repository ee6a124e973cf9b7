"""Adversarial losses on logits, as named terms: one on real samples, one on fake ones.

Every loss here has the two methods of `GANLoss`: ``discriminator(real_logits, fake_logits)`` and
``generator(fake_logits, real_logits)``, each returning a mapping name -> scalar that `backward` takes as it is. Logits
are what the last linear layer returns, of any shape, high for real; a loss is the mean over all of them, so patches
count like samples. A discriminator that scores real *low* is served by negating what it returns.

Whether the logits come from two forwards or from one over the concatenated batch makes no difference to the loss;
with the latter, ``logits.split([len(real), len(fake)])`` tells them apart.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import relu

from ..adversarial import wide
from ._alpha_loss import alpha_loss

__all__ = ["GANLoss", "Hinge", "LeastSquares", "PerSampleLoss", "Vanilla", "Wasserstein"]


class GANLoss(Protocol):
    """What a training loop needs of an adversarial loss: the terms of either player, to be minimised."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """The discriminator's terms, ``{"real": scalar, "fake": scalar}``."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's terms: ``{"fake": scalar}``, with ``"real"`` beside it for losses that compare the two."""


class PerSampleLoss(ABC):
    """A loss that scores each sample by itself: l(1, s) where s should be high, l(0, s) where it should be low."""

    @abstractmethod
    def on_real(self, logits: Tensor) -> Tensor:
        """The discriminator's loss l(1, s) for each logit of a real sample, elementwise."""

    @abstractmethod
    def on_fake(self, logits: Tensor) -> Tensor:
        """The discriminator's loss l(0, s) for each logit of a fake sample, elementwise."""

    @abstractmethod
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's term, ``{"fake": scalar}``; ``real_logits`` are not looked at."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """The discriminator's terms, ``{"real": mean l(1, s), "fake": mean l(0, s)}``."""
        return {"real": self.on_real(real_logits).mean(), "fake": self.on_fake(fake_logits).mean()}


@dataclass(frozen=True)
class Vanilla(PerSampleLoss):
    """Cross-entropy between what a sample is and the probability ``D = sigmoid(s)`` that it is real.

    Discriminator: ``real = -E log D(x)``, ``fake = -E log(1 - D(G(z)))``. Generator: ``-E log D(G(z))``, or, saturating
    as in the minimax game, ``E log(1 - D(G(z)))``. In [0, inf), the saturating one in (-inf, 0].

    Args:
        saturating: whether the generator plays the minimax game, whose gradient vanishes where D is sure.

    Example:
        >>> import torch
        >>> Vanilla().discriminator(torch.zeros(4), torch.zeros(4))  # log 2: knows nothing
        {'real': tensor(0.6931), 'fake': tensor(0.6931)}
        >>> Vanilla(saturating=True).generator(torch.zeros(4))
        {'fake': tensor(-0.6931)}

    Reference:
        Goodfellow et al. Generative Adversarial Nets. NeurIPS 2014, arXiv:1406.2661, Eq. 1 and section 3.
    """

    saturating: bool = False

    def on_real(self, logits: Tensor) -> Tensor:
        """``-log sigmoid(s)``."""
        return alpha_loss(logits, 1.0)

    def on_fake(self, logits: Tensor) -> Tensor:
        """``-log(1 - sigmoid(s))``."""
        return alpha_loss(-logits, 1.0)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """``{"fake": -E log D(G(z))}``, or saturating ``{"fake": E log(1 - D(G(z)))}``."""
        loss = -self.on_fake(fake_logits) if self.saturating else self.on_real(fake_logits)
        return {"fake": loss.mean()}


@dataclass(frozen=True)
class Hinge(PerSampleLoss):
    """The hinge loss: no gradient from samples that are beyond the margin on their own side.

    Discriminator: ``real = E max(0, 1 - s(x))``, ``fake = E max(0, 1 + s(G(z)))``, in [0, inf). Generator:
    ``-E s(G(z))``. That is the minimax game against the fake term without its truncation, and it does not saturate.

    Once every sample is beyond its margin, the gradient of a term is exactly zero; all rules leave it out then.

    Args:
        truncated: False drops the max, ``1 - s`` and ``1 + s``: the form to use inside the AdvAs penalty, where its
            authors found it better, since a truncated term hides the samples which the discriminator is sure of.

    Example:
        >>> import torch
        >>> Hinge().discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0]))
        {'real': tensor(0.5000), 'fake': tensor(1.)}
        >>> Hinge(truncated=False).discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0]))
        {'real': tensor(0.), 'fake': tensor(0.5000)}

    Reference:
        Lim, Ye. Geometric GAN. arXiv:1705.02894. Without truncation: Munk, Harvey, Wood. Assisting the
        Adversary to Improve GAN Training. arXiv:2010.01274, section 5.
    """

    truncated: bool = True

    def on_real(self, logits: Tensor) -> Tensor:
        """``max(0, 1 - s)``, or ``1 - s``."""
        return relu(1 - logits) if self.truncated else 1 - logits

    def on_fake(self, logits: Tensor) -> Tensor:
        """``max(0, 1 + s)``, or ``1 + s``."""
        return relu(1 + logits) if self.truncated else 1 + logits

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """``{"fake": -E s(G(z))}``."""
        return {"fake": -fake_logits.mean()}


@dataclass(frozen=True)
class LeastSquares(PerSampleLoss):
    """Least squares to one target for real samples and another for fake ones.

    Discriminator: ``real = E (s(x) - b)^2 / 2``, ``fake = E (s(G(z)) - a)^2 / 2``. Generator:
    ``E (s(G(z)) - b)^2 / 2``. All in [0, inf), in at least float32. Logits are taken as they are, not through a
    sigmoid; the default is 0-1 coding.

    There is no saturating generator: ``-E (s(G(z)) - a)^2 / 2`` falls on either side of a, without bound.

    Args:
        real_target: b.
        fake_target: a.

    Raises:
        ValueError: the two targets are equal.

    Example:
        >>> import torch
        >>> LeastSquares().discriminator(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
        {'real': tensor(0.2500), 'fake': tensor(0.5000)}

    Reference:
        Mao et al. Least Squares Generative Adversarial Networks. ICCV 2017, arXiv:1611.04076, Eq. 2 and 9, with c = b.
    """

    real_target: float = 1.0
    fake_target: float = 0.0

    def __post_init__(self) -> None:
        if self.real_target == self.fake_target:
            raise ValueError(f"LeastSquares needs two different targets; got {self.real_target} for real and fake")

    def on_real(self, logits: Tensor) -> Tensor:
        """``(s - b)^2 / 2``."""
        return _squared(logits - self.real_target) / 2

    def on_fake(self, logits: Tensor) -> Tensor:
        """``(s - a)^2 / 2``."""
        return _squared(logits - self.fake_target) / 2

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """``{"fake": E (s(G(z)) - b)^2 / 2}``."""
        return {"fake": self.on_real(fake_logits).mean()}


def _squared(x: Tensor) -> Tensor:
    # the square of a logit beyond 256 overflows float16
    squared: Tensor = wide(x).square()
    return squared


@dataclass(frozen=True)
class Wasserstein(PerSampleLoss):
    """The critic's difference of means, ``-E s(x) + E s(G(z))``, whose two halves are the terms.

    Discriminator: ``real = -E s(x)``, ``fake = E s(G(z))``. Generator: ``-E s(G(z))``, which is the minimax game.
    Unbounded, so the critic needs a constraint: `gradient_penalty` as a third term, or spectral normalization.

    Example:
        >>> import torch
        >>> Wasserstein().discriminator(torch.tensor([3.0]), torch.tensor([1.0]))
        {'real': tensor(-3.), 'fake': tensor(1.)}

    Reference:
        Arjovsky, Chintala, Bottou. Wasserstein Generative Adversarial Networks. ICML 2017, arXiv:1701.07875, Eq. 2.
    """

    def on_real(self, logits: Tensor) -> Tensor:
        """``-s``."""
        return -logits

    def on_fake(self, logits: Tensor) -> Tensor:
        """``s``."""
        return logits

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """``{"fake": -E s(G(z))}``."""
        return {"fake": -fake_logits.mean()}
