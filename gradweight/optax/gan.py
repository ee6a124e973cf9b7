"""What a GAN in JAX needs beside a rule: scores, alpha-losses and the AdvAs penalty, the twins of `gradweight.gan`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .rows import Tree

__all__ = ["advas_penalty", "alpha_loss", "critic_scores", "probability_scores"]


def probability_scores(real_logits: jax.Array, fake_logits: jax.Array, *, sign: int = 1) -> dict[str, jax.Array]:
    """Mean probabilities of "real", as the signals that ``update`` of `combine` passes on.

    ``real_score = mean sigmoid(sign * s(x))``, ``fake_score = mean sigmoid(sign * s(G(z)))``, each 0-dim, in [0, 1],
    without gradients, in float32 at least.

    Args:
        real_logits: logits of real samples, of any shape.
        fake_logits: logits of fake samples, of any shape.
        sign: 1 for a discriminator that scores real samples high, -1 for one that scores them low.

    Raises:
        ValueError: a sign that is neither.

    Example:
        >>> probability_scores(jnp.array([0.0, 100.0]), jnp.array([0.0, -100.0]))
        {'real_score': Array(0.75, dtype=float32), 'fake_score': Array(0.25, dtype=float32)}

    Reference:
        Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks. CVPR 2021,
        arXiv:2012.03149, section 3.
    """
    _check_sign(sign, "probability_scores")
    scores = {"real_score": real_logits, "fake_score": fake_logits}
    return {name: jax.nn.sigmoid(_constant(sign * logits)).mean() for name, logits in scores.items()}


def critic_scores(real_scores: jax.Array, fake_scores: jax.Array, *, sign: int = 1) -> dict[str, jax.Array]:
    """How often a critic ranks a real sample above a fake one, as the signals that ``update`` of `combine` passes on.

    ``real_score = P(c_r > c_f) + P(c_r = c_f) / 2`` over all pairs of the batch and ``fake_score = 1 - real_score``,
    each 0-dim, in [0, 1], without gradients: for critics, whose scores are no logits. Why, and that it is ours:
    `gradweight.gan.critic_scores`.

    Args:
        real_scores: the critic's scores of real samples, of any shape.
        fake_scores: the critic's scores of fake samples, of any shape.
        sign: 1 for a critic that scores real samples high, -1 for one that scores them low.

    Raises:
        ValueError: a sign that is neither.

    Example:
        >>> critic_scores(jnp.array([1003.0, 1001.0]), jnp.array([1002.0, 1000.0]))
        {'real_score': Array(0.75, dtype=float32), 'fake_score': Array(0.25, dtype=float32)}
    """
    _check_sign(sign, "critic_scores")
    difference = _constant(sign * real_scores).reshape(-1, 1) - _constant(sign * fake_scores).reshape(1, -1)
    real_score = (jnp.sign(difference).mean() + 1) / 2
    return {"real_score": real_score, "fake_score": 1 - real_score}


def alpha_loss(logits: jax.Array, alpha: float) -> jax.Array:
    """The alpha-loss of calling a sample real, from its logit.

    With ``D = sigmoid(s)`` and ``b = 1 - 1/alpha``: ``l(1, s) = (1 - D^b) / b``, elementwise, ``log(1 + exp(-s))`` for
    alpha = 1; the loss of calling it fake is ``l(0, s) = l(1, -s)``. In float32 at least. Derivatives of every order
    keep their digits at any logit. The (alpha_D, alpha_G)-GAN: the discriminator's losses are the means of
    ``alpha_loss(real, alpha_d)`` and ``alpha_loss(-fake, alpha_d)``, the generator's is ``alpha_loss(fake, alpha_g)``.

    Args:
        logits: of any shape.
        alpha: in (0, inf].

    Raises:
        ValueError: alpha out of its range.

    Example:
        >>> alpha_loss(jnp.array([0.0, 2.0]), 0.5).round(4)
        Array([1.    , 0.1353], dtype=float32)

    Reference:
        Sypherd, Diaz, Cava, Dasarathy, Kairouz, Sankar. A Tunable Loss Function for Robust Classification. IEEE
        Transactions on Information Theory 2022, arXiv:1906.02314. Welfert, Kurri, Otstot, Sankar. arXiv:2310.18291.
    """
    if not alpha > 0:
        raise ValueError(f"alpha_loss needs alpha in (0, inf]; got {alpha}")
    logits = _wide(logits)
    b = 1.0 if alpha == math.inf else (alpha - 1) / alpha  # 1 - 1/alpha loses its digits near alpha = 1
    # no derivative is a difference of nearly equal numbers: all is made of exp(-|s|)
    negative = logits < 0
    log_d = jnp.where(negative, logits, 0) - jnp.log1p(jnp.exp(jnp.where(negative, logits, -logits)))
    if b == 0:
        return -log_d
    x = b * log_d
    # JAX takes expm1(x) + 1 for the derivative, of which nothing but rounding is left where x is far below 0
    power_minus_1 = jnp.where(x < -1, jnp.exp(x) - 1, jnp.expm1(jnp.where(x < -1, 0, x))) if b > 0 else jnp.expm1(x)
    return -power_minus_1 / b


def advas_penalty(adversary_loss: Callable[[Tree], Any], phi: Tree) -> jax.Array:
    """The squared norm of the gradient that the adversary would be trained with, differentiable to the generator.

    ``r = |grad_phi L_adv(phi)|^2``, a scalar, in float32 at least: a further loss of the generator. Adding it alone is
    AdvAs with lambda fixed; `gradweight.rules.AdvAs` weights it so that its gradient is not longer than the other's.

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

    def total(phi: Tree) -> jax.Array:
        terms = jax.tree.leaves(adversary_loss(phi))
        for term in terms:
            if jnp.size(term) != 1:
                raise ValueError(f"the adversary's loss must be a scalar; got shape {jnp.shape(term)}")
        return jnp.stack([jnp.reshape(term, ()) for term in terms]).sum()

    squares = [jnp.sum(jnp.abs(_wide(g)) ** 2) for g in jax.tree.leaves(jax.grad(total)(phi))]
    return jnp.stack(squares).sum()


def _wide(array: jax.Array) -> jax.Array:
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))


def _constant(logits: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(_wide(logits))


def _check_sign(sign: int, owner: str) -> None:
    if sign not in (1, -1):
        raise ValueError(f"{owner} needs sign 1 (real scored high) or -1 (real scored low); got {sign}")
