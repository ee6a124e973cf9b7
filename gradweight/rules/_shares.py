"""Shares and averages among the losses that have a gradient."""

import math

from ..rule import Array, array_namespace
from ._solvers.arrays import at_least, total
from ._solvers.correlations import inverse_norms


def has_gradient(gram: Array) -> Array:
    """1 for each loss whose gradient is not exactly zero, else 0: (m, m) -> (m,), in the dtype of ``gram``."""
    xp = array_namespace(gram)
    return xp.astype(inverse_norms(gram) > 0, gram.dtype)


def softmax(scores: Array, active: Array) -> Array:
    """``exp(scores_i) / sum_j exp(scores_j)`` among the active, 0 for the others: (m,), (m,) -> (m,)."""
    xp = array_namespace(scores)
    top = xp.max(xp.where(active > 0, scores, -math.inf), axis=-1)
    powers = xp.where(active > 0, xp.exp(xp.where(active > 0, scores - xp.where(xp.isfinite(top), top, 0), 0)), 0)
    whole = total(powers)
    return powers / xp.where(whole > 0, whole, 1)


def mean(values: Array, active: Array) -> Array:
    """The mean of the active entries, 0 if there is none: (m,), (m,) -> ()."""
    xp = array_namespace(values)
    return total(xp.where(active > 0, values, 0)) / at_least(total(active), 1)


def log(values: Array) -> Array:
    """The logarithm, with everything below the smallest normal number, zero and negative values too, taken for it."""
    xp = array_namespace(values)
    return xp.log(at_least(values, float(xp.finfo(values.dtype).smallest_normal)))


def followed(average: Array, losses: Array, active: Array, time: float) -> Array:
    """A moving average of the losses, 0 for negative ones, after ``time``: 3 (m,) -> (m,).

    ``L + (average - L) exp(-time)``, the solution of ``dv/dt = L - v``; what is not active, or not finite, keeps its
    average.
    """
    xp = array_namespace(losses)
    target = at_least(losses, 0)
    return xp.where((active > 0) & xp.isfinite(losses), target + (average - target) * math.exp(-time), average)
