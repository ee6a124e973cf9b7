"""Gradient penalties in JAX: a further loss of the discriminator, times the coefficient that you choose."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...adversarial import distance_from_1, wide

__all__ = ["gradient_penalty", "r1_penalty", "r2_penalty"]

Discriminator = Callable[[jax.Array], jax.Array]


def gradient_penalty(critic: Discriminator, real: jax.Array, fake: jax.Array, *, key: jax.Array) -> jax.Array:
    """How far from 1 the norm of the critic's gradient is: `gradweight.gan.gradient_penalty` of JAX arrays.

    ``E (|grad_x s(x)| - 1)^2`` at ``x = u x_r + (1 - u) x_f`` with u uniform on [0, 1], one for each pair, the norm
    over all of a sample; a scalar in [0, inf), without the coefficient (10 in the paper), in float32 at least. Where a
    gradient is exactly zero, the norm is given the derivative 0.

    Args:
        critic: samples (n, ...) -> logits of any shape.
        real: (n, ...).
        fake: like ``real``.
        key: what u is drawn from.

    Raises:
        ValueError: ``real`` and ``fake`` differ in shape.

    Example:
        >>> critic = lambda x: x @ jnp.array([3.0, 4.0])  # gradient norm 5 everywhere
        >>> gradient_penalty(critic, jnp.ones((8, 2)), jnp.zeros((8, 2)), key=jax.random.key(0))
        Array(16., dtype=float32)

    Reference:
        Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville. Improved Training of Wasserstein GANs. NeurIPS 2017,
        arXiv:1704.00028, Eq. 3 and Algorithm 1.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"gradient_penalty needs real and fake samples of one shape; got {real.shape} and {fake.shape}"
        )
    u = jax.random.uniform(key, (real.shape[0], *[1] * (real.ndim - 1)), real.dtype)
    squared = _squared_gradients(critic, fake + u * (real - fake))
    return distance_from_1(squared)  # type: ignore[no-any-return]


def r1_penalty(discriminator: Discriminator, real: jax.Array) -> jax.Array:
    """Half the mean squared gradient of the discriminator at real samples: `gradweight.gan.r1_penalty` in JAX.

    ``E |grad_x s(x)|^2 / 2``, a scalar in [0, inf), without the coefficient gamma (10 in the paper), in float32 at
    least. Here it takes the discriminator, since JAX has no gradient of a forward that has been done; XLA merges the
    forward with the one of the loss.

    Args:
        discriminator: samples (n, ...) -> logits of any shape.
        real: (n, ...).

    Example:
        >>> r1_penalty(lambda x: x @ jnp.array([3.0, 4.0]), jnp.ones((8, 2)))
        Array(12.5, dtype=float32)

    Reference:
        Mescheder, Geiger, Nowozin. Which Training Methods for GANs do actually Converge? ICML 2018, arXiv:1801.04406,
        Eq. 9.
    """
    return _squared_gradients(discriminator, real).mean() / 2


def r2_penalty(discriminator: Discriminator, fake: jax.Array) -> jax.Array:
    """Half the mean squared gradient of the discriminator at fake samples: `r1_penalty` of those.

    Args:
        discriminator: samples (n, ...) -> logits of any shape.
        fake: (n, ...), to which no gradient goes.

    Example:
        >>> r2_penalty(lambda x: x @ jnp.array([3.0, 4.0]), jnp.ones((8, 2)))
        Array(12.5, dtype=float32)

    Reference:
        Mescheder, Geiger, Nowozin, as of `r1_penalty`, Eq. 10.
    """
    return r1_penalty(discriminator, jax.lax.stop_gradient(fake))


def _squared_gradients(discriminator: Discriminator, samples: jax.Array) -> jax.Array:
    """The squared norm of each sample's gradient, (n, ...) -> (n,)."""
    gradient = jax.grad(lambda x: jnp.sum(discriminator(x)))(samples)
    squares: jax.Array = wide(gradient) ** 2
    return squares.reshape(len(squares), -1).sum(1)
