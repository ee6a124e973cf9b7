"""Classes of wrapped optimizers, for hosts that want a class and build the optimizer themselves."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

__all__ = ["class_of"]


class _ClassOf(type):
    """The type of these classes: they are no attributes of a module, by whose names classes are pickled otherwise."""


def class_of(wrapper: type[Any], base: Callable[..., Any], rule: Any, options: dict[str, Any]) -> type:
    """A subclass of ``wrapper`` that is called as ``base`` is.

    Args:
        wrapper: called as ``wrapper(base(...), rule, **options)``.
        base: a class of optimizers, or a function that returns one or several.
        rule, options: as ``wrapper`` takes them.

    Raises:
        TypeError: ``base`` is an optimizer already, or nothing that is called.
    """
    if not callable(base):
        raise TypeError(f"of() needs a class of optimizers, which the host builds; got a {type(base).__name__}")

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        wrapper.__init__(self, base(*args, **kwargs), rule, **options)

    name = getattr(base, "__name__", type(base).__name__)
    doc = f"{wrapper.__name__} around {name}, with {rule!r}."
    made = (wrapper, base, rule, options)
    return _ClassOf(wrapper.__name__ + name, (wrapper,), {"__init__": __init__, "__doc__": doc, "_made_of": made})


def _reduce(kind: type) -> Any:
    # a subclass that a user has written has a place in a module
    return (class_of, vars(kind)["_made_of"]) if "_made_of" in vars(kind) else kind.__qualname__


copyreg.pickle(_ClassOf, _reduce)
