"""Hyperparameters of the rules: their ranges, and the ones that are looked up by a loss's name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, overload

from ..rule import Array, array_namespace
from ._solvers.arrays import at_least

Preference = Mapping[str, float] | None
"""name -> how much a loss counts; None: equally."""


_COME_AND_GO = ("AdvAs", "VQGANWeight")
"""The rules one of whose losses may be declared as one that comes and goes."""


def check_range(rule: str, what: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise `ValueError` unless ``low <= value <= high`` and value is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        bound = f">= {low} and finite" if math.isinf(high) else f"in [{low}, {high}]"
        raise ValueError(f"{rule} needs {what} {bound}; got {value}")


def check_positive(rule: str, what: str, value: float) -> None:
    """Raise `ValueError` unless value is finite and above 0."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{rule} needs {what} > 0 and finite; got {value}")


def check_nonnegative(rule: str, what: str, table: Mapping[str, float] | None) -> None:
    """Raise `ValueError` unless every entry is finite and at least 0."""
    for name, value in (table or {}).items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{rule} needs {what} >= 0 and finite; got {value} for {name!r}")


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


@overload
def position(rule: str, name: str, names: tuple[str, ...]) -> int: ...
@overload
def position(rule: str, name: str, names: tuple[str, ...], *, every_step: bool) -> int | None: ...
def position(rule: str, name: str, names: tuple[str, ...], *, every_step: bool = True) -> int | None:
    """Where the loss of that name is: the one way in which rules look for a loss that a field of theirs names.

    Args:
        rule: who looks.
        name: of the loss.
        names: of the losses of this step.
        every_step: False for a loss that comes and goes, on whose absence None is returned.

    Raises:
        ValueError: there is no such loss.
    """
    if name in names:
        return names.index(name)
    if every_step:
        remedy = f": {rule}(every_step=False) if it comes and goes" if rule in _COME_AND_GO else ""
        raise ValueError(f"{rule} needs the loss {name!r}; this step has {list(names)}{remedy}")
    return None


def preferred(rule: str, preference: Preference, active: Array, names: tuple[str, ...] | None) -> Array:
    """The preferences in the order of the losses, 0 where not active: (m,) -> (m,).

    Without preferences, 1/n for each of the n active ones.
    """
    xp = array_namespace(active)
    if preference is None:
        return active / at_least(xp.sum(active), 1)
    return active * by_name(rule, "preference", preference, names, active, 1.0)
