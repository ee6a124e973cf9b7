"""The alpha-loss of one logit on JAX arrays."""

import jax
import jax.numpy as jnp

from ... import adversarial

__all__ = ["alpha_loss"]


def alpha_loss(logits: jax.Array, alpha: float) -> jax.Array:
    """The alpha-loss of calling a sample real, from its logit: `gradweight.gan.alpha_loss` of JAX arrays.

    With ``D = sigmoid(s)`` and ``b = 1 - 1/alpha``: ``l(1, s) = (1 - D^b) / b``, elementwise, ``log(1 + exp(-s))`` for
    alpha = 1; the loss of calling it fake is ``l(0, s) = l(1, -s)``. In float32 at least. Derivatives of every order
    keep their digits at any logit. The (alpha_D, alpha_G)-GAN: the discriminator's losses are the means of
    ``alpha_loss(real, alpha_d)`` and ``alpha_loss(-fake, alpha_d)``, the generator's is ``alpha_loss(fake, alpha_g)``.

    Args:
        logits: of any shape.
        alpha: the order, in (0, inf]; `ValueError` if it is not.

    Example:
        >>> alpha_loss(jnp.array([0.0, 2.0]), 0.5).round(4)
        Array([1.    , 0.1353], dtype=float32)

    Reference:
        Sypherd, Diaz, Cava, Dasarathy, Kairouz, Sankar. arXiv:1906.02314. Welfert, Kurri, Otstot, Sankar.
        arXiv:2310.18291.
    """
    loss: jax.Array = adversarial.alpha_loss(jnp.asarray(logits), alpha)
    return loss
