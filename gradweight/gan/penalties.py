"""Penalties on the gradient of a discriminator by its input: WGAN-GP, R1 and R2.

Each is one more named term for `backward`, times the coefficient that you choose, on the steps that it is due on.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..adversarial import distance_from_1, wide

__all__ = ["gradient_penalty", "r1_penalty", "r2_penalty"]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """How far from 1 the norm of the critic's gradient is, between real and fake samples.

    ``E (|grad_x s(x)| - 1)^2`` at ``x = u x_r + (1 - u) x_f`` with u uniform on [0, 1], one for each pair, the norm
    over all of a sample; a scalar in [0, inf), without the coefficient (10 in the paper).

    Differentiable to the critic's parameters and to the samples, so it can stand inside `advas_penalty` (whose
    ``engine="func"`` cannot run it); detach the fake samples in the critic's own step. Where a gradient is exactly
    zero, the norm is given the derivative 0.

    A critic with batch normalization in training mode has no gradient per sample, and the paper advises against it.

    Args:
        critic: samples (n, ...) -> logits of any shape.
        real: (n, ...).
        fake: like ``real``.
        generator: where u is drawn from.

    Raises:
        ValueError: ``real`` and ``fake`` differ in shape.

    Example:
        >>> critic = lambda x: x @ torch.tensor([3.0, 4.0])  # gradient norm 5 everywhere
        >>> gradient_penalty(critic, torch.randn(8, 2), torch.randn(8, 2)).detach()
        tensor(16.)

    Reference:
        Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville. Improved Training of Wasserstein GANs. NeurIPS 2017,
        arXiv:1704.00028, Eq. 3 and Algorithm 1.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"gradient_penalty needs real and fake samples of one shape; got {tuple(real.shape)} and "
            f"{tuple(fake.shape)}"
        )
    shape = (real.shape[0], *[1] * (real.dim() - 1))
    u = torch.rand(shape, generator=generator, dtype=real.dtype, device=real.device)
    x = fake + u * (real - fake)
    if not x.requires_grad:
        x.requires_grad_()
    penalty: Tensor = distance_from_1(_squared_gradients(critic(x), x))
    return penalty


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Half the mean squared gradient of the discriminator at real samples.

    ``E |grad_x s(x)|^2 / 2``, a scalar in [0, inf), without the coefficient gamma (10 in the paper).

    It takes the logits of a forward that has been done: call ``real.requires_grad_()`` before it.

    Args:
        real_logits: the discriminator's logits for ``real``, with their graph.
        real: (n, ...), requiring a gradient.

    Raises:
        ValueError: ``real`` does not require a gradient, or the logits do not depend on it.

    Example:
        >>> x = torch.randn(8, 2, requires_grad=True)
        >>> r1_penalty(x @ torch.tensor([3.0, 4.0]), x).detach()
        tensor(12.5000)

    Reference:
        Mescheder, Geiger, Nowozin. Which Training Methods for GANs do actually Converge? ICML 2018, arXiv:1801.04406,
        Eq. 9.
    """
    return _half_mean_squared(real_logits, real, "r1_penalty", "real")


def r2_penalty(fake_logits: Tensor, fake: Tensor) -> Tensor:
    """Half the mean squared gradient of the discriminator at fake samples: `r1_penalty` of those.

    ``E |grad_x s(G(z))|^2 / 2``; call ``fake.detach().requires_grad_()`` before the forward.

    Args:
        fake_logits: the discriminator's logits for ``fake``, with their graph.
        fake: (n, ...), requiring a gradient.

    Raises:
        ValueError: as of `r1_penalty`.

    Example:
        >>> x = torch.randn(8, 2, requires_grad=True)
        >>> r2_penalty(x @ torch.tensor([3.0, 4.0]), x).detach()
        tensor(12.5000)

    Reference:
        Mescheder, Geiger, Nowozin, as of `r1_penalty`, Eq. 10.
    """
    return _half_mean_squared(fake_logits, fake, "r2_penalty", "fake")


def _half_mean_squared(logits: Tensor, samples: Tensor, owner: str, kind: str) -> Tensor:
    if not samples.requires_grad:
        raise ValueError(
            f"{owner} needs {kind} samples that require a gradient; call requires_grad_() on them before the forward"
        )
    if logits.grad_fn is None:
        raise ValueError(f"{owner} needs logits with a graph; got a tensor without one")
    return _squared_gradients(logits, samples, f"{owner} needs logits that depend on the {kind} samples").mean() / 2


def _squared_gradients(logits: Tensor, samples: Tensor, otherwise: str = "") -> Tensor:
    """The squared norm of each sample's gradient, (n, ...) -> (n,), in float32 at least."""
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(otherwise or "gradient_penalty needs a critic whose logits depend on its samples")
    # the square of a half-precision norm overflows beyond 255
    squared: Tensor = wide(gradient.flatten(1)).square().sum(1)
    return squared
