"""What rules that are wrapped round other rules have in common: what they accept, and how they call it."""

from collections.abc import Callable, Mapping
from typing import Any

from ..rule import STATISTICS, Array, CoordinateRule, Rule, Signals, State, StatefulRule, refuse_averages


def check_wrapped(wrapper: str, rule: Rule) -> None:
    """Raise `TypeError` unless ``rule`` is one that returns weights and needs no statistics of the entries."""
    signals = Signals.of(rule)
    refuse_averages(rule, wrapper, "use that rule by itself")
    if isinstance(rule, CoordinateRule):
        raise TypeError(f"{wrapper} needs a rule that returns weights; {type(rule).__name__} acts on coordinates")
    needed = sorted(STATISTICS & signals.required)
    if needed:
        raise TypeError(
            f"{wrapper} needs a rule of the Gram matrix, the losses and what the user passes; "
            f"{type(rule).__name__} needs {needed} of the gradients"
        )


def given_signals(names: object, losses: Array, step: Array, signals: Mapping[str, Any]) -> dict[str, Any]:
    """Every signal that there is, those that were left out left out."""
    known = {"names": names, "losses": losses, "step": step}
    return {name: value for name, value in known.items() if value is not None} | dict(signals)


def initial(rule: Rule, gram: Array, prefix: str) -> State:
    """The state of a rule, its names after a prefix; empty if it has none."""
    state = rule.init(gram) if isinstance(rule, StatefulRule) else {}
    return {prefix + name: value for name, value in state.items()}


def decide(
    wrapper: str, rule: Rule, gram: Array, state: State, prefix: str, given: Mapping[str, Any]
) -> tuple[Array, State]:
    """The weights of a rule, and its next state, of and to the entries whose names begin with the prefix.

    Raises:
        TypeError: a signal that it requires is not given.
    """
    declared = Signals.of(rule)
    for missing in sorted(declared.required.difference(given)):
        raise TypeError(f"{declared.rule} needs the signal {missing!r}; {wrapper} was given {sorted(given) or 'none'}")
    if isinstance(rule, StatefulRule):
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        weights, inner = rule.update(gram, inner, **declared.select(given))
        return weights, {prefix + name: value for name, value in inner.items()}
    function: Callable[..., Array] = rule  # type: ignore[assignment]
    return function(gram, **declared.select(given)), {}


def check_known(wrapper: str, signals: Mapping[str, Any], *rules: Rule) -> None:
    """Raise `TypeError` unless each signal that the user passed is one that some of the rules knows."""
    declared = [Signals.of(rule) for rule in rules]
    own = sorted(set().union(*(d.known for d in declared)) - {"names", "losses", "step"})
    for unknown in sorted(set(signals).difference(own)):
        if not any(d.takes_any for d in declared):
            who = " and ".join(d.rule for d in declared)
            raise TypeError(f"{who} in {wrapper} has no signal {unknown!r}; it takes {own or 'none'}")
