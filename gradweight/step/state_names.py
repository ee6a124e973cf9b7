"""Names of what is remembered from step to step: what it is, of which rule, for which losses, in which order."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

__all__ = ["for_losses", "remembered_order", "title"]

_FOR = " for "


def for_losses(what: str, names: Iterable[str], where: str = "") -> str:
    """The name under which something is remembered for these losses, whatever characters their names have.

    Example:
        >>> for_losses("weights", ["a~b", "c"])
        'weights for ["a~b", "c"]'
    """
    return f"{what}{_FOR}{json.dumps(list(names))}{where}"


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
    """The kind of rule, with that of a rule inside it: a state of one kind is none of another.

    Example:
        >>> from gradweight.rules import CRMOGM, NormBalance
        >>> title(CRMOGM(NormBalance(beta=0.9)))
        'CRMOGM(NormBalance)'
    """
    name = str(getattr(rule, "__name__", type(rule).__name__))
    inner = getattr(rule, "rule", None)
    return name if inner is None else f"{name}({title(inner)})"
