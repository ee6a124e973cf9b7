"""Losses whose graphs were retained, so that another wrapper may be given them too: two rules for one step."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .step import Step

__all__ = ["remember_retained", "warn_of_two_rules"]

_LEVEL = 5  # the caller of the wrapper's backward()

_GIVEN: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Step]]] = {}
"""By the id of a loss that is alive: the loss, and whom it was given to."""


def remember_retained(losses: Any, step: Step) -> None:
    """Keep in mind that these losses were given to ``step``, as long as they live."""
    for loss in losses.values() if isinstance(losses, Mapping) else ():
        if isinstance(loss, Tensor):
            key = id(loss)
            _GIVEN[key] = weakref.ref(loss, lambda _, key=key: _GIVEN.pop(key, None)), weakref.ref(step)  # type: ignore[misc]


def warn_of_two_rules(losses: Any, step: Step) -> bool:
    """Warn if a loss was given to another wrapper, of other parameters; returns whether it was."""
    if not (_GIVEN and isinstance(losses, Mapping)):
        return False
    for name, loss in losses.items():
        kept, given_to = _GIVEN.get(id(loss), (None, None))
        other = None if given_to is None or kept is None or kept() is not loss else given_to()
        if other is None or other is step or not {*map(id, other.trained())}.isdisjoint(map(id, step.trained())):
            continue
        warnings.warn(
            f"the loss {name!r} was given to another MultiObjectiveGradient before, of other parameters, so that two "
            "rules decide about this step, each by a part of every gradient: for one rule over all, wrap both "
            "optimizers, MultiObjectiveGradient([first, second], rule)",
            stacklevel=_LEVEL,
        )
        return True
    return False
