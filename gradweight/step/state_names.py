"""Names of what is remembered from step to step: what it is, of which rule, for which losses, in which order."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable
from typing import Literal

from ..rule import rules_inside

__all__ = [
    "average_of",
    "for_losses",
    "remembered_order",
    "state_of",
    "title",
    "warn_of_another_rule",
    "warn_of_other_losses",
]

_FOR = " for "
_STATE = "state of "


def for_losses(what: str, names: Iterable[str], where: str = "") -> str:
    """The name under which something is remembered for these losses, whatever characters their names have.

    Example:
        >>> for_losses("weights", ["a~b", "c"])
        'weights for ["a~b", "c"]'
    """
    return f"{what}{_FOR}{json.dumps(list(names))}{where}"


def average_of(kind: str, names: Iterable[str], name: str) -> str:
    """The name of the average of a loss's gradients, in the state of each parameter, for a kind of rule.

    Example:
        >>> average_of("MoCo", ["a", "b"], "b")
        'average of "b" by MoCo for ["a", "b"]'
    """
    return for_losses(f"average of {json.dumps(name)} by {kind}", names)


def remembered_order(names: Collection[str], state: Iterable[str]) -> list[str] | None:
    """The order of these losses when something was remembered for them; None if nothing is.

    Args:
        names: the losses, in any order.
        state: names that `for_losses` has made, among others.

    Example:
        >>> remembered_order({"b", "a"}, ["step", for_losses("state", ["b", "a"], " in group 0")])
        ['b', 'a']
    """
    wanted = set(names)
    for name in state:
        _, found, listed = name.partition(_FOR)
        if found:
            order: list[str] = json.JSONDecoder().raw_decode(listed)[0]
            if set(order) == wanted:
                return order
    return None


def title(rule: object) -> str:
    """The kind of rule, with those of the rules inside it: a state of one kind is none of another.

    Rules inside are a ``rule``, or several ``rules``.

    Example:
        >>> from gradweight.rules import CRMOGM, NormBalance
        >>> title(CRMOGM(NormBalance(beta=0.9)))
        'CRMOGM(NormBalance)'
    """
    name = str(getattr(rule, "__name__", type(rule).__name__))
    inside = rules_inside(rule)
    return f"{name}({', '.join(map(title, inside))})" if inside else name


def rules_of(state: Iterable[str]) -> list[str]:
    """The kinds of rules whose state these are names of.

    Example:
        >>> rules_of(["step", for_losses(state_of("FAMO"), ["a", "b"])])
        ['FAMO']
    """
    kinds = (name.partition(_FOR)[0].removeprefix(_STATE) for name in state if name.startswith(_STATE))
    return list(dict.fromkeys(kinds))


def state_of(kind: str) -> str:
    """What the state of a kind of rule is called.

    Example:
        >>> state_of("FAMO")
        'state of FAMO'
    """
    return f"{_STATE}{kind}"


def warn_of_another_rule(rule: object, state: Collection[str]) -> None:
    """Warn if what a checkpoint holds is of other rules only."""
    there, now = rules_of(state), title(rule)
    if there and now not in there:
        warnings.warn(
            f"the checkpoint holds the state of {' and '.join(there)}; the rule is {now}, which "
            f"{'starts afresh' if hasattr(rule, 'init') else 'has no state'}",
            stacklevel=5,
        )


def warn_of_other_losses(rule: object, changed: Iterable[str], state: Collection[str]) -> Literal[False]:
    """Warn if a rule whose state a checkpoint holds begins with losses that are not those of the checkpoint.

    Returns:
        False: it is asked once.
    """
    prefix = state_of(title(rule)) + _FOR
    there = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    new = [name.removeprefix(prefix) for name in changed if name.startswith(prefix) and name not in state]
    if there and new:
        warnings.warn(
            f"the checkpoint holds the state of {title(rule)} for the losses {' and '.join(there)}; for "
            f"{' and '.join(new)} it starts afresh",
            stacklevel=4,
        )
    return False
