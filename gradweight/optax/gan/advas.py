"""The AdvAs penalty in JAX: the squared norm of the adversary's gradient, and two estimates of it without bias."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...adversarial import inner_product, squared_norm_without_bias, wide
from ..rows import Tree

__all__ = ["advas_penalty", "advas_penalty_half_batches", "advas_penalty_unbiased"]


def advas_penalty(adversary_loss: Callable[[Tree], Any], phi: Tree) -> jax.Array:
    """The squared norm of the gradient that the adversary would be trained with, differentiable to the generator.

    ``r = |grad_phi L_adv(phi)|^2``, a scalar, in float32 at least: a further loss of the generator. Adding it alone is
    AdvAs with lambda fixed; `gradweight.rules.AdvAs` weights it so that its gradient is not longer than the other's.
    Estimated from a batch it is too large by the variance of the gradient, ``Var / n``: see the other two.

    Args:
        adversary_loss: a function of the adversary's parameters that returns its loss: a scalar, or a mapping of terms,
            which are added up. The fake samples that it uses carry the generator's gradient.
        phi: the adversary's parameters, any tree.

    Raises:
        ValueError: a loss that is not scalar.

    Example:
        >>> fake = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        >>> def r(fake):  # the gradient is the mean of the fake samples
        ...     return advas_penalty(lambda phi: (fake @ phi).mean(), jnp.zeros(2))
        >>> jax.value_and_grad(r)(fake)  # |(2, 3)|^2
        (Array(13., dtype=float32), Array([[2., 3.],
               [2., 3.]], dtype=float32))

    Reference:
        Munk, Harvey, Wood. Assisting the Adversary to Improve GAN Training. ICLR 2021 submission,
        arXiv:2010.01274, Eq. 9 and 10.
    """
    gradient = _gradient(adversary_loss, phi)
    return inner_product(gradient, gradient)  # type: ignore[no-any-return]


def advas_penalty_half_batches(
    adversary_loss: Callable[[Tree, jax.Array, jax.Array], Any], phi: Tree, fake: jax.Array, real: jax.Array
) -> jax.Array:
    """AdvAs without bias, from two halves of the batch: `gradweight.gan.advas_penalty_half_batches` of JAX arrays.

    ``r = <grad_phi L_adv(half 1), grad_phi L_adv(half 2)>``, a scalar whose expectation is ``|E grad|^2``. It can be
    negative; its gradient by the generator's parameters is without bias too.

    Args:
        adversary_loss: a function (phi, fake, real) -> scalar or a mapping of terms, means over samples.
        phi: as for `advas_penalty`.
        fake: (n, ...) with n >= 2, carrying the generator's gradient.
        real: (m, ...) with m >= 2.

    Raises:
        ValueError: as for `advas_penalty`; fewer than two samples.

    Example:
        >>> def adversary_loss(phi, fake, real):
        ...     return (fake @ phi).mean() - (real @ phi).mean()
        >>> fake, real = jnp.array([[1.0, 0.0], [3.0, 1.0]]), jnp.zeros((2, 2))
        >>> advas_penalty_half_batches(adversary_loss, jnp.zeros(2), fake, real)  # <(1, 0), (3, 1)>
        Array(3., dtype=float32)

    Reference:
        Munk, Harvey, Wood. arXiv:2010.01274, appendix B, has the problem; this estimator is the textbook's.
    """
    for name, samples in (("fake", fake), ("real", real)):
        if len(samples) < 2:
            raise ValueError(f"advas_penalty_half_batches needs at least 2 {name} samples; got {len(samples)}")
    halves = zip(jnp.array_split(fake, 2), jnp.array_split(real, 2), strict=True)
    first, second = (_gradient(lambda p, f=f, r=r: adversary_loss(p, f, r), phi) for f, r in halves)  # type: ignore[misc]
    return inner_product(first, second)  # type: ignore[no-any-return]


def advas_penalty_unbiased(
    per_sample_loss: Callable[[Tree, jax.Array, jax.Array], Any], phi: Tree, fake: jax.Array, real: jax.Array
) -> jax.Array:
    """AdvAs without bias, from the gradient of each sample: `gradweight.gan.advas_penalty_unbiased` of JAX arrays.

    With ``g_i = grad_phi l(phi, fake_i, real_i)``: ``r = |mean g|^2 - Var / n``, a scalar whose expectation is
    ``|E g|^2``. It can be negative. It holds n gradients at once, half batches hold two.

    Args:
        per_sample_loss: a function (phi, fake_i, real_i) -> scalar of one pair of samples, without a batch dimension;
            it is run under `jax.vmap`.
        phi: as for `advas_penalty`.
        fake: (n, ...) with n >= 2, carrying the generator's gradient.
        real: (n, ...), each paired with a fake one.

    Raises:
        ValueError: as for `advas_penalty`; batches of different or too small size.

    Example:
        >>> def per_sample_loss(phi, fake, real):
        ...     return (fake - real) @ phi
        >>> fake, real = jnp.array([[1.0, 0.0], [3.0, 1.0]]), jnp.zeros((2, 2))
        >>> advas_penalty_unbiased(per_sample_loss, jnp.zeros(2), fake, real)  # n = 2: <g_1, g_2>
        Array(3., dtype=float32)

    Reference:
        Munk, Harvey, Wood. arXiv:2010.01274, appendix B, Eq. 14 to 18, with the variance subtracted: as printed, Eq. 15
        and 16 add it.
    """
    if len(fake) != len(real) or len(fake) < 2:
        raise ValueError(
            "advas_penalty_unbiased needs as many real samples as fake ones, at least 2; got "
            f"{len(real)} real and {len(fake)} fake"
        )
    samples = jax.vmap(lambda f, r: _gradient(lambda p: per_sample_loss(p, f, r), phi))(fake, real)
    return squared_norm_without_bias(samples)  # type: ignore[no-any-return]


def _gradient(adversary_loss: Callable[[Tree], Any], phi: Tree) -> list[jax.Array]:
    """The pieces of the gradient, real ones of float32 at least."""

    def total(phi: Tree) -> jax.Array:
        terms = jax.tree.leaves(adversary_loss(phi))
        for term in terms:
            if jnp.size(term) != 1:
                raise ValueError(f"the adversary's loss must be a scalar; got shape {jnp.shape(term)}")
        return jnp.stack([jnp.reshape(term, ()) for term in terms]).sum()

    found = jax.tree.leaves(jax.grad(total)(phi))
    return [wide(part) for g in found for part in ((g.real, g.imag) if jnp.iscomplexobj(g) else (g,))]
