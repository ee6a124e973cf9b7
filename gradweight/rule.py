"""What a rule is, and how it asks for what it needs.

A rule turns the Gram matrix of the per-loss gradients into one weight for each loss. It comes in one of three
shapes, and the shape alone says which it is:

- a **callable** ``(gram, /, *, <signals>) -> weights``, a pure function of an (m, m) matrix: nearly every rule;
- a `StatefulRule`, which remembers something from step to step: ``init(gram) -> state`` and
  ``update(gram, state, /, *, <signals>) -> (weights, state)``, the state a dict of tensors, passed and returned;
- a `CoordinateRule`, which needs the gradients themselves: ``combine(rows, /, *, <signals>) -> direction``.

The keyword-only parameters are the rule's **signals**. `names` (a tuple of str) and `losses` (an (m,) array) come
by themselves, everything else is what the user passes to ``backward``: a GAN's ``real_score``, say. A parameter
with a default is optional, one without is required, and a rule with ``**signals`` takes whatever comes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import array_api_compat
import array_api_compat.torch
import torch

__all__ = ["CoordinateRule", "Rule", "StatefulRule", "array_namespace", "check_signals", "select_signals"]

Array: TypeAlias = Any
"""An array of any library that follows the Python array API standard: torch, NumPy, JAX."""

State: TypeAlias = dict[str, Array]
"""What a stateful rule remembers: named arrays, nothing else, so that any checkpoint can hold it."""

GIVEN_BY_THE_STEP = frozenset({"names", "losses"})


@runtime_checkable
class StatefulRule(Protocol):
    """A rule that remembers: ``init(gram) -> state``, ``update(gram, state, /, *, ...) -> (weights, state)``."""

    @property
    def init(self) -> Callable[[Array], State]:
        """The state before the first step, on the device and in the library of ``gram``."""

    @property
    def update(self) -> Callable[..., tuple[Array, State]]:
        """Weights and the next state; the state that came in stays as it was."""


@runtime_checkable
class CoordinateRule(Protocol):
    """A rule that acts on coordinates: ``combine(rows, /, *, ...) -> direction``, (m, ...) -> (...)."""

    @property
    def combine(self) -> Callable[..., Array]:
        """The direction of one parameter from its m gradients (zeros where a loss does not reach it)."""


Rule: TypeAlias = Callable[..., Array] | StatefulRule | CoordinateRule


def array_namespace(array: Array) -> Any:
    """The array API namespace of ``array``.

    `array_api_compat.array_namespace`, with torch answered first: its general look-up goes through caches that
    ``torch.compile`` warns about.
    """
    if isinstance(array, torch.Tensor):
        return array_api_compat.torch
    return array_api_compat.array_namespace(array)


@dataclass(frozen=True)
class _Declaration:
    required: frozenset[str]
    optional: frozenset[str]
    takes_any: bool


def rule_name(rule: Rule) -> str:
    """What errors call the rule: its class, or the function's own name."""
    return str(getattr(rule, "__name__", type(rule).__name__))


def check_rule(rule: Rule) -> None:
    """Raise `TypeError` if ``rule`` is none of the three shapes."""
    if isinstance(rule, type):
        raise TypeError(f"a rule must be an instance; got the class {rule.__name__}, write {rule.__name__}()")
    if not (callable(rule) or isinstance(rule, StatefulRule | CoordinateRule)):
        raise TypeError(
            "a rule must be callable as rule(gram) -> weights, or have init and update, or have combine; "
            f"got {type(rule).__name__}"
        )


def check_signals(rule: Rule, given: Collection[str], caller: str = "backward()") -> None:
    """Raise `TypeError` unless ``given`` holds every signal that the rule requires and none that it does not know.

    Args:
        rule: the rule whose keyword-only parameters are the declaration.
        given: names of the signals that the user passed.
        caller: who was called, for the message.
    """
    declared = _declaration(rule)
    for missing in sorted(declared.required - set(given) - GIVEN_BY_THE_STEP):
        raise TypeError(
            f"{rule_name(rule)} needs the signal {missing!r}; {caller} was given {sorted(given) or 'no signals'}"
        )
    if declared.takes_any:
        return
    known = declared.required | declared.optional
    for unknown in sorted(set(given) - (known - GIVEN_BY_THE_STEP)):
        raise TypeError(
            f"{rule_name(rule)} has no signal {unknown!r}; "
            f"it takes {sorted(known - GIVEN_BY_THE_STEP) or 'none'}, and {caller} was given {sorted(given)}"
        )


def select_signals(rule: Rule, signals: dict[str, Any]) -> dict[str, Any]:
    """The part of ``signals`` that the rule declares, so that a bare ``lambda gram: ...`` is a rule too."""
    declared = _declaration(rule)
    if declared.takes_any:
        return signals
    known = declared.required | declared.optional
    return {name: value for name, value in signals.items() if name in known}


def _declaration(rule: Rule) -> _Declaration:
    if isinstance(rule, StatefulRule):
        return _declaration_of(type(rule).update if hasattr(type(rule), "update") else rule.update)
    if isinstance(rule, CoordinateRule):
        return _declaration_of(type(rule).combine if hasattr(type(rule), "combine") else rule.combine)
    # Instances of one class share their declaration; the cache is keyed by the function, so that unhashable
    # rules (a list of weights in a field, a torch module) work as well.
    return _declaration_of(rule if inspect.isroutine(rule) else type(rule).__call__)


@functools.lru_cache(maxsize=256)
def _declaration_of(function: Callable[..., Any]) -> _Declaration:
    required, optional, takes_any = set(), set(), False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            (required if parameter.default is inspect.Parameter.empty else optional).add(parameter.name)
    return _Declaration(frozenset(required), frozenset(optional), takes_any)
