"""Due: which losses a step goes backward from, where the rule remembers the gradients of the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from .averages import Averager

__all__ = ["Due", "split_due"]

Due: TypeAlias = str | Collection[str] | None
"""Which losses are due in a step, by name; None: all."""


def split_due(losses: Any, due: Due, averager: Averager | None) -> tuple[Any, tuple[str, ...]]:
    """The losses that are due, and the names of all where these are not all of them, else nothing.

    Raises:
        TypeError: a rule that does not remember the gradients of the others; losses that one function returns.
        ValueError: a name that no loss has, or none at all.
    """
    if due is None:
        return losses, ()
    if averager is None:
        raise TypeError(
            "due= leaves out losses whose gradients the rule remembers, which takes one that asks for averages of them "
            "(gradweight.rules.MConFIG, say): leave those that are not due out of the mapping"
        )
    names = [due] if isinstance(due, str) else list(due)
    if not isinstance(losses, Mapping):
        raise TypeError(f"due={due!r} needs a mapping of all losses by name; got {type(losses).__name__}")
    if not names or not set(names) <= set(losses):
        raise ValueError(f"due must name losses of this step, {list(losses)}, which are all there are; got {due!r}")
    given = {name: losses[name] for name in losses if name in names}
    vectors = [name for name, loss in given.items() if isinstance(loss, Tensor) and loss.numel() > 1]
    if vectors:
        raise ValueError(f"due= needs scalar losses, each with an average of its own; {vectors} are vectors")
    return given, tuple(losses)
