"""Relativistic losses: whether real samples look more real than fake ones, rather than whether they look real."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .alpha import Alpha
from .losses import PerSampleLoss, Vanilla

__all__ = ["Relativistic"]


@dataclass(frozen=True)
class Relativistic:
    """A per-sample loss applied to how far a sample's logit is above the other kind's.

    On average, with l the base loss, ``r = s(x_r)``, ``f = s(x_f)``, and means over the batch:

        discriminator  ``real = E l(1, r - mean f)``,  ``fake = E l(0, f - mean r)``
        generator      ``real = E l(0, r - mean f)``,  ``fake = E l(1, f - mean r)``

    or saturating, minus the discriminator's. Paired, sample i of one batch with sample i of the other, the loss is
    ``L = E l(1, r - f)``, and ``E l(1, f - r)`` for the generator. It is one expectation, not a sum over two: it is
    split by whose logits are differentiated, ``real`` by r and ``fake`` by f. Each term has the value of L, and the
    gradients add up to that of L, and so do their derivatives by both, which `advas_penalty` takes.

    On average, both terms depend on both kinds of logits: the generator's ``"real"`` reaches it through ``mean f``.

    Args:
        base: the loss l. `Vanilla` makes RaSGAN, or RSGAN in pairs, `Hinge` RaHingeGAN,
            ``LeastSquares(fake_target=-1)`` RaLSGAN (times 1/2).
        average: False for pairs (RSGAN and its kin), which need as many real samples as fake ones.
        saturating: whether the generator minimises minus the discriminator's terms.

    Raises:
        ValueError: a base that is itself saturating or has an order per player, which have no meaning here; on the
            call, a generator without the logits of real samples, or pairs of unequal shapes.

    Example:
        >>> import torch
        >>> real, fake = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])
        >>> from gradweight.gan import Hinge
        >>> Relativistic(Hinge()).discriminator(real, fake)  # mean of max(0, 1 - {2, 0}) and of max(0, 1 + {0, -2})
        {'real': tensor(0.5000), 'fake': tensor(0.5000)}
        >>> Relativistic(Hinge()).generator(fake, real)
        {'real': tensor(2.), 'fake': tensor(2.)}

    Reference:
        Jolicoeur-Martineau. The relativistic discriminator: a key element missing from standard GAN. ICLR 2019,
        arXiv:1807.00734, section 4. The split of a paired loss is ours.
    """

    base: PerSampleLoss = field(default_factory=Vanilla)
    average: bool = True
    saturating: bool = False

    def __post_init__(self) -> None:
        if getattr(self.base, "saturating", False):
            raise ValueError(f"Relativistic has saturating= of its own; got the base {self.base}")
        if isinstance(self.base, Alpha) and self.base.alpha_d != self.base.alpha_g:
            raise ValueError(f"Relativistic needs a base with one order for both players; got {self.base}")

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """The discriminator's terms, ``{"real": scalar, "fake": scalar}``."""
        if not self.average:
            return self._paired(real_logits, fake_logits)
        return {
            "real": self.base.on_real(real_logits - fake_logits.mean()).mean(),
            "fake": self.base.on_fake(fake_logits - real_logits.mean()).mean(),
        }

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's terms, ``{"real": scalar, "fake": scalar}``; paired, ``{"fake": scalar}``."""
        if real_logits is None:
            raise ValueError("Relativistic.generator() needs real_logits beside fake_logits; got None")
        if not self.average:
            r, f = real_logits, fake_logits
            _check_pairs(r, f)
            loss = -self.base.on_real(r - f) if self.saturating else self.base.on_real(f - r)
            return {"fake": loss.mean()}
        if self.saturating:
            return {name: -term for name, term in self.discriminator(real_logits, fake_logits).items()}
        return {
            "real": self.base.on_fake(real_logits - fake_logits.mean()).mean(),
            "fake": self.base.on_real(fake_logits - real_logits.mean()).mean(),
        }

    def _paired(self, r: Tensor, f: Tensor) -> dict[str, Tensor]:
        _check_pairs(r, f)
        real = _ByFirst.apply(r, f, lambda r, f: self.base.on_real(r - f))  # type: ignore[no-untyped-call]
        fake = _ByFirst.apply(f, r, lambda f, r: self.base.on_real(r - f))  # type: ignore[no-untyped-call]
        return {"real": real.mean(), "fake": fake.mean()}


class _ByFirst(torch.autograd.Function):
    """An elementwise loss of two, differentiated by the first; that derivative is a function of both.

    Detaching the second would do for a step, but its derivative would be missing in AdvAs, which differentiates again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, second: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return loss(first, second)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, second, ctx.loss = inputs
        ctx.save_for_backward(first, second)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        first, second = ctx.saved_tensors
        pull_back: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(lambda x: ctx.loss(x, second), first)[1]
        return pull_back(cotangent)[0], None, None


def _check_pairs(r: Tensor, f: Tensor) -> None:
    if r.shape != f.shape:
        raise ValueError(
            f"Relativistic(average=False) compares sample i with sample i and needs logits of one shape; got "
            f"{tuple(r.shape)} for real and {tuple(f.shape)} for fake"
        )
