"""Scores for `gradweight.rules.AdaptiveWeights`, as signals that ``update`` of `gradweight.optax.combine` takes."""

import jax
import jax.numpy as jnp

from ...adversarial import check_sign, ranked_above, wide

__all__ = ["critic_scores", "probability_scores"]


def probability_scores(real_logits: jax.Array, fake_logits: jax.Array, *, sign: int = 1) -> dict[str, jax.Array]:
    """Mean probabilities of "real": `gradweight.gan.probability_scores` of JAX arrays.

    ``real_score = mean sigmoid(sign * s(x))``, ``fake_score = mean sigmoid(sign * s(G(z)))``, each 0-dim, in [0, 1],
    without gradients, in float32 at least.

    Args:
        real_logits, fake_logits: of any shape.
        sign: 1 for a discriminator that scores real samples high, -1 for one that scores them low.

    Raises:
        ValueError: a sign that is neither.

    Example:
        >>> probability_scores(jnp.array([0.0, 100.0]), jnp.array([0.0, -100.0]))
        {'real_score': Array(0.75, dtype=float32), 'fake_score': Array(0.25, dtype=float32)}

    Reference:
        Zadorozhnyy, Cheng, Ye. CVPR 2021, arXiv:2012.03149, section 3.
    """
    check_sign(sign, "probability_scores")
    real, fake = (jax.nn.sigmoid(wide(sign * _constant(logits))).mean() for logits in (real_logits, fake_logits))
    return {"real_score": real, "fake_score": fake}


def critic_scores(real_scores: jax.Array, fake_scores: jax.Array, *, sign: int = 1) -> dict[str, jax.Array]:
    """How often a critic ranks a real sample above a fake one: `gradweight.gan.critic_scores` of JAX arrays.

    ``real_score = P(c_r > c_f) + P(c_r = c_f) / 2`` over all pairs of the batch and ``fake_score = 1 - real_score``,
    each 0-dim, in [0, 1], without gradients: for critics, whose scores are no logits. It is ours.

    Args:
        real_scores, fake_scores: of any shape.
        sign: as for `probability_scores`.

    Example:
        >>> critic_scores(jnp.array([1003.0, 1001.0]), jnp.array([1002.0, 1000.0]))
        {'real_score': Array(0.75, dtype=float32), 'fake_score': Array(0.25, dtype=float32)}
    """
    check_sign(sign, "critic_scores")
    real_score = ranked_above(sign * _constant(real_scores), sign * _constant(fake_scores))
    return {"real_score": real_score, "fake_score": 1 - real_score}


def _constant(array: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.asarray(array))
