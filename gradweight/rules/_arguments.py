"""Hyperparameters of the rules: their ranges, and the ones that are looked up by a loss's name."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, overload

from ..rule import Array, array_namespace
from ._solvers.arrays import at_least

Preference = Mapping[str, float] | None
"""name -> how much a loss counts; None: equally."""


_COME_AND_GO = ("AdvAs", "VQGANWeight")
"""The rules one of whose losses may be declared as one that comes and goes."""


def check_number(rule: str, what: str, value: Any) -> None:
    """Raise `TypeError` unless value is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{rule} needs {what} to be a number; got {value!r}")


def check_range(
    rule: str, what: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False, below: bool = False
) -> None:
    """Raise unless ``low <= value <= high`` and value is a finite number.

    Args:
        rule: whose argument it is.
        what: the argument.
        value: what was given.
        low: the least that it may be.
        high: the most that it may be.
        open_low: it must be above ``low``.
        below: it must be below ``high``.
    """
    check_number(rule, what, value)
    inside = (low < value if open_low else low <= value) and (value < high if below else value <= high)
    if not (inside and math.isfinite(value)):
        interval = f"in {'(' if open_low else '['}{low}, {high}{')' if below else ']'}"
        bound = f"{'>' if open_low else '>='} {low} and finite" if math.isinf(high) else interval
        raise ValueError(f"{rule} needs {what} {bound}; got {value}")


def check_positive(rule: str, what: str, value: float) -> None:
    """Raise unless value is a finite number above 0."""
    check_range(rule, what, value, 0, open_low=True)


def check_whole(rule: str, what: str, value: Any, low: int) -> None:
    """Raise unless value is an int of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{rule} needs {what} to be an int; got {value!r}")
    if value < low:
        raise ValueError(f"{rule} needs {what} >= {low}; got {value}")


def check_table(rule: str, what: str, table: object, *, optional: bool = True) -> None:
    """Raise unless this is a mapping name -> finite number, or None if that may be."""
    if table is None and optional:
        return
    if not isinstance(table, Mapping):
        raise TypeError(
            f"{rule} needs {what} as a mapping from the losses' names to numbers, such as "
            f'{{"a": 1.0, "b": 2.0}}; got {table!r}'
        )
    for name, value in table.items():
        check_number(rule, f"{what} for {name!r}", value)
        if not math.isfinite(value):
            raise ValueError(f"{rule} needs finite {what}; got {value} for {name!r}")


def check_nonnegative(rule: str, what: str, table: Mapping[str, float] | None) -> None:
    """Raise unless this is None, or a mapping from names to finite numbers of at least 0."""
    for name, value in table.items() if isinstance(table, Mapping) else ():
        check_number(rule, f"{what} for {name!r}", value)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{rule} needs {what} >= 0 and finite; got {value} for {name!r}")
    check_table(rule, what, table)


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
