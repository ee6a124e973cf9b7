"""The formulas of adversarial training in array code, which `gradweight.gan` and `gradweight.optax.gan` share.

What differs between the two, how gradients are taken and stopped, is theirs; so is the documentation for users.
"""

import math
from collections.abc import Sequence

from .rule import Array, array_namespace

__all__ = [
    "alpha_loss",
    "check_alpha",
    "check_sign",
    "distance_from_1",
    "inner_product",
    "ranked_above",
    "squared_norm_without_bias",
    "wide",
]


def wide(array: Array) -> Array:
    """The same in float32 at least."""
    xp = array_namespace(array)
    # not the array API's `result_type`, which torch.compile cannot trace for bfloat16
    return xp.astype(array, xp.promote_types(array.dtype, xp.float32), copy=False)


def alpha_loss(logits: Array, alpha: float) -> Array:
    """``l(1, s) = (1 - sigmoid(s)^b) / b`` with ``b = 1 - 1/alpha``, elementwise, in float32 at least."""
    check_alpha(alpha, "alpha_loss", "alpha")
    xp = array_namespace(logits)
    # exp(12) is beyond float16, and alpha = 1/2 has it at s = -12, where no clamp of D is in force
    logits = wide(logits)
    b = 1.0 if alpha == math.inf else (alpha - 1) / alpha  # 1 - 1/alpha loses its digits near alpha = 1
    # All of it is made of e = exp(-|s|) in (0, 1], so that no derivative is a difference of nearly equal numbers. Those
    # of torch's logsigmoid have the factor 1 - sigmoid, which rounds to 0 in float32 where s > 17; its softplus is the
    # identity above 20; abs and minimum have second derivatives at s = 0 that are none of the loss's.
    negative = logits < 0
    log_d = xp.where(negative, logits, 0) - xp.log1p(xp.exp(xp.where(negative, logits, -logits)))
    if b == 0:
        return -log_d
    x = b * log_d
    power_minus_1 = xp.expm1(x)
    if b > 0:
        # torch and JAX take expm1(x) + 1 for the derivative, of which nothing but rounding is left far below x = 0
        power_minus_1 = xp.where(x < -1, xp.exp(x) - 1, power_minus_1)
    return -power_minus_1 / b


def check_alpha(alpha: float, owner: str, field: str) -> None:
    """Raise `ValueError` unless ``alpha`` is an order."""
    if not alpha > 0:
        raise ValueError(f"{owner} needs {field} in (0, inf]; got {alpha}")


def ranked_above(first: Array, second: Array) -> Array:
    """``P(a > b) + P(a = b) / 2`` over all pairs of an entry of each: () in [0, 1]."""
    xp = array_namespace(first)
    difference = xp.reshape(wide(first), (-1, 1)) - xp.reshape(wide(second), (1, -1))
    return (xp.mean(xp.sign(difference)) + 1) / 2


def check_sign(sign: int, owner: str) -> None:
    """Raise `ValueError` unless ``sign`` is 1 or -1."""
    if sign not in (1, -1):
        raise ValueError(f"{owner} needs sign 1 (real scored high) or -1 (real scored low); got {sign}")


def inner_product(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """The inner product of two vectors that lie in pieces: ()."""
    xp = array_namespace(first[0])
    return xp.sum(xp.stack([xp.sum(a * b) for a, b in zip(first, second, strict=True)]))


def squared_norm_without_bias(samples: Sequence[Array]) -> Array:
    """``|mean g|^2 - Var / n``, an estimate of ``|E g|^2``, from n samples that lie in pieces of shape (n, ...): ().

    It is ``mean_i |g_i|^2 - sum_i |g_i - mean g|^2 / (n - 1)`` in the form that cancels less.
    """
    xp = array_namespace(samples[0])
    means = [xp.mean(piece, axis=0) for piece in samples]
    variance = xp.sum(xp.stack([xp.sum(xp.var(piece, axis=0, correction=1)) for piece in samples]))
    return inner_product(means, means) - variance / samples[0].shape[0]


def distance_from_1(squared_norms: Array) -> Array:
    """``mean_i (|g_i| - 1)^2`` from the squares of the norms, with the derivative 0 where a norm is: (n,) -> ()."""
    xp = array_namespace(squared_norms)
    positive = squared_norms > 0
    # the square root has no derivative at 0, and a NaN that is multiplied by 0 afterwards is one still
    norms = xp.where(positive, xp.sqrt(xp.where(positive, squared_norms, 1)), 0)
    return xp.mean((norms - 1) ** 2)
