"""What rules that are wrapped round other rules have in common: what they accept, and how they call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..rule import STATISTICS, Array, CoordinateRule, Rule, Signals, State, StatefulRule, refuse_averages


@dataclass(frozen=True)
class Wrapped:
    """What a rule inside another one declares, read once: to read a signature takes as long as to decide.

    Args:
        wrapper: name of the other one.
        prefix: of the names of its state.
        declared: its signals.
        stateful: whether it has a state.
    """

    wrapper: str
    prefix: str
    declared: Signals
    stateful: bool

    @staticmethod
    def of(wrapper: str, rule: Rule, prefix: str) -> Wrapped:
        """What ``rule`` declares.

        Raises:
            TypeError: it is none that returns weights, needs statistics of the entries, or asks for averages.
        """
        signals = Signals.of(rule)
        if isinstance(rule, CoordinateRule):
            raise TypeError(f"{wrapper} needs a rule that returns weights; {type(rule).__name__} acts on coordinates")
        refuse_averages(rule, wrapper, "use it by itself")
        needed = sorted(STATISTICS & signals.required)
        if needed:
            raise TypeError(
                f"{wrapper} needs a rule of the Gram matrix, the losses and what the user passes; "
                f"{type(rule).__name__} needs {needed} of the gradients"
            )
        return Wrapped(wrapper, prefix, signals, isinstance(rule, StatefulRule))

    def initial(self, rule: Rule, gram: Array) -> State:
        """The state of the rule, its names after the prefix; empty if it has none."""
        state = rule.init(gram) if self.stateful else {}  # type: ignore[union-attr]
        return {self.prefix + name: value for name, value in state.items()}

    def decide(self, rule: Rule, gram: Array, state: State, given: Mapping[str, Any]) -> tuple[Array, State]:
        """The weights of the rule, and its next state, of and to the entries whose names begin with the prefix.

        Raises:
            TypeError: a signal that it requires is not given.
        """
        declared, prefix = self.declared, self.prefix
        for missing in sorted(declared.required.difference(given)):
            raise TypeError(
                f"{declared.rule} needs the signal {missing!r}; {self.wrapper} was given {sorted(given) or 'none'}"
            )
        if not self.stateful:
            function: Callable[..., Array] = rule  # type: ignore[assignment]
            return function(gram, **declared.select(given)), {}
        inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        weights, inner = rule.update(gram, inner, **declared.select(given))  # type: ignore[union-attr]
        return weights, {prefix + name: value for name, value in inner.items()}


def given_signals(names: object, losses: Array, step: Array, signals: Mapping[str, Any]) -> dict[str, Any]:
    """Every signal that there is, those that were left out left out."""
    known = {"names": names, "losses": losses, "step": step}
    return {name: value for name, value in known.items() if value is not None} | dict(signals)


def check_known(signals: Mapping[str, Any], *inner: Wrapped) -> None:
    """Raise `TypeError` unless each signal that the user passed is one that some of the rules knows."""
    if not signals:
        return
    own = sorted(set().union(*(some.declared.known for some in inner)) - {"names", "losses", "step"})
    for unknown in sorted(set(signals).difference(own)):
        if not any(some.declared.takes_any for some in inner):
            who = " and ".join(some.declared.rule for some in inner)
            raise TypeError(f"{who} in {inner[0].wrapper} has no signal {unknown!r}; it takes {own or 'none'}")
