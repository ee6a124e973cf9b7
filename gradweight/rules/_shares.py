"""Shares among the losses that have a gradient, and values looked up by a loss's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..rule import Array, array_namespace
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
    total = xp.sum(powers, axis=-1)
    return powers / xp.where(total > 0, total, 1)


def mean(values: Array, active: Array) -> Array:
    """The mean of the active entries, 0 if there is none: (m,), (m,) -> ()."""
    xp = array_namespace(values)
    return xp.sum(xp.where(active > 0, values, 0), axis=-1) / xp.clip(xp.sum(active, axis=-1), 1, None)


def log(values: Array) -> Array:
    """The logarithm, with everything below the smallest normal number, zero and negative values too, taken for it."""
    xp = array_namespace(values)
    return xp.log(xp.clip(values, float(xp.finfo(values.dtype).smallest_normal), None))


def by_name(
    rule: str, what: str, table: Mapping[str, float] | None, names: tuple[str, ...] | None, like: Array, default: float
) -> Array:
    """``table[names[i]]`` for each loss, or ``default`` for all if there is no table: (m,), in the dtype of ``like``.

    Raises:
        ValueError: a table, but no names to look up, or a name that it does not have.
    """
    xp = array_namespace(like)
    zero = 0 * like[..., 0]
    if table is None:
        return xp.stack([zero + default] * like.shape[-1])
    if names is None:
        raise ValueError(f"{rule} finds its {what} by name: it needs names=, and was called without")
    for name in names:
        if name not in table:
            raise ValueError(f"{rule} has no {what} for the loss {name!r}; it has {sorted(table)}")
    return xp.stack([zero + float(table[name]) for name in names])


def check_nonnegative(rule: str, what: str, table: Mapping[str, float] | None) -> None:
    """Raise `ValueError` unless every entry is finite and at least 0."""
    for name, value in (table or {}).items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{rule} needs {what} >= 0 and finite; got {value} for {name!r}")


def check_range(rule: str, what: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise `ValueError` unless ``low <= value <= high`` and value is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        bound = f">= {low} and finite" if math.isinf(high) else f"in [{low}, {high}]"
        raise ValueError(f"{rule} needs {what} {bound}; got {value}")
