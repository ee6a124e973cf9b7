"""What the wrapper asks of a rule, found out once, when an optimizer is built."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..linalg.host_access import is_eager, is_host_readable
from ..rule import (
    BY_THEMSELVES,
    CoordinateRule,
    Rule,
    Signals,
    StatefulRule,
    averaging,
    check_in_range,
    check_weights,
    rules_inside,
)

__all__ = ["call_of", "check_ranges", "check_rule_once", "check_state", "needs_losses", "signals_for"]

_GRAM = ((2.0, 0.5), (0.5, 1.0))
_ROWS = ((1.0, 2.0, 3.0), (0.0, -1.0, 1.0))


def check_rule_once(rule: Rule) -> None:
    """Raise unless ``rule`` is called as a rule is, and answers as one where it answers at all.

    Unless it requires signals from the user, it is shown a 1 x 1 and a 2 x 2 Gram matrix (a `CoordinateRule`: one row
    and two), in float32 on the CPU. What it raises itself is no fault: it may need losses of other names, or more of
    them. It is copied before, if it can be, so that one which remembers something in itself begins with the first step;
    torch's random numbers stay where they were.

    Raises:
        TypeError: an aggregator of TorchJD, which takes a Jacobian; parameters that no signal fills; a result that is
            no tensor, not real, or not (weights, state); a state that is no dict of tensors.
        ValueError: a result of another shape or not finite; a Gram matrix or a state that was written to.
    """
    signals = Signals.of(rule)
    _refuse_aggregator(rule)
    _check_signature(rule, signals)
    if signals.required - BY_THEMSELVES:
        return  # what they may be is not known: a matrix, say
    probed = getattr(rule, "_torchdynamo_orig_callable", getattr(rule, "_orig_mod", rule))  # compiles nothing
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if not is_eager(torch.ones((), device="cpu")):
            return
        try:
            probed = copy.deepcopy(probed)
        except Exception:  # it holds something that cannot be copied
            probed = rule
        if isinstance(probed, CoordinateRule) and not isinstance(probed, StatefulRule):
            _probe_coordinates(probed, signals)
            return
        lengths = [_probe(probed, signals, m) for m in (1, 2)]
    # a rule may have a fixed number of weights, for so many losses
    if None not in lengths and lengths != [1, 2] and lengths[0] != lengths[1]:
        raise ValueError(f"{signals.rule} must return one weight per loss; for 1 and 2 losses it returned {lengths}")


def call_of(rule: Rule) -> Callable[..., Any]:
    """What is called with the Gram matrix or the rows."""
    if isinstance(rule, StatefulRule):
        return rule.update
    if isinstance(rule, CoordinateRule):
        return rule.combine
    return rule.forward if isinstance(rule, torch.nn.Module) else rule


def signals_for(signals: Signals, m: int, like: Tensor) -> dict[str, Any]:
    """A value for each signal that is supplied automatically, of those that the rule knows."""
    steps = torch.arange(1, m + 1, device=like.device)
    automatic = {
        "names": tuple(f"loss {i}" for i in range(m)),
        "losses": 0.25 * steps.to(like),
        "step": torch.zeros((), dtype=torch.int64, device=like.device),
        "max_abs": steps.to(like),
        "mean_abs": 0.5 * steps.to(like),
        "offset": 0,
        "reaches": None,
    }
    return {name: value for name, value in automatic.items() if name in signals.known}


def needs_losses(rule: Rule) -> bool:
    """Whether the weights, or averages of the gradients, depend on the values of the losses, or a rule inside does so.

    A rule whose arguments decide says so with an attribute ``needs_losses``.
    """
    own = getattr(rule, "needs_losses", "losses" in Signals.of(rule).required)
    asks = averaging(rule)
    if asks is not None and asks.average is not None:
        own = own or "losses" in inspect.signature(asks.average).parameters
    return own or not getattr(rule, "needs_gradients", True) or any(map(needs_losses, rules_inside(rule)))


def check_state(state: object, rule: str, where: str) -> None:
    """Raise `TypeError` unless the state is a dict of named tensors, which any checkpoint can hold."""
    if not isinstance(state, dict):
        raise TypeError(f"{where} of {rule} must return a state that is a dict of tensors; got {type(state).__name__}")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            got = f"{name!r}: {type(value).__name__}"
            raise TypeError(f"{where} of {rule} must return a state that is a dict name -> tensor; got {got}")


def check_ranges(rule: object, given: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a signal lies outside of what the rule's ``ranges`` say, as far as the host can tell.

    Numbers and tensors on the CPU are looked at; reading another device's would be a host sync. NaN is left to show in
    the weights.
    """
    for name in getattr(rule, "ranges", {}).keys() & given.keys():
        value = given[name]
        if isinstance(value, Tensor):
            if value.numel() != 1 or not is_host_readable(value.detach()):
                continue
            value = value.item()
        if isinstance(value, int | float):
            check_in_range(rule, name, value)


def _refuse_aggregator(rule: Rule) -> None:
    classes = [c for c in type(rule).__mro__ if c.__module__.partition(".")[0] == "torchjd"]
    if any(c.__name__ == "Aggregator" for c in classes):
        name = type(rule).__name__
        raise TypeError(
            f"a rule takes the Gram matrix of the gradients; {name} of TorchJD is an aggregator, which takes the "
            f"gradients themselves: pass gradweight.rules.from_torchjd({name}(...)), or a rule of gradweight.rules"
        )


def _check_signature(rule: Rule, signals: Signals) -> None:
    try:
        signature = inspect.signature(call_of(rule))
    except ValueError:  # a builtin that has none
        return
    before = (None, None) if isinstance(rule, StatefulRule) else (None,)
    try:
        signature.bind(*before, **dict.fromkeys(signals.required))
    except TypeError as error:
        needed = "gram, state, /" if len(before) == 2 else "rows, /" if isinstance(rule, CoordinateRule) else "gram, /"
        raise TypeError(
            f"{signals.rule} must take ({needed}, *, ...) with its signals keyword-only; it takes {signature}"
        ) from error


def _probe(rule: Any, signals: Signals, m: int) -> int | None:
    """How many weights the rule has for m losses; None where it raises."""
    gram = torch.tensor(_GRAM, device="cpu")[:m, :m].clone()
    shown, given = gram.clone(), signals_for(signals, m, gram)
    state: Any = {}
    result: Any
    kept: dict[str, Tensor] = {}
    try:
        if isinstance(rule, StatefulRule):
            state = rule.init(shown)
            kept = {name: value.clone() for name, value in state.items()}
            result = rule.update(shown, state, **given)
        else:
            result = rule(shown, **given)
    except Exception:
        if isinstance(rule, StatefulRule) and state != {} and not kept:
            check_state(state, signals.rule, "init()")
        return None
    if isinstance(rule, StatefulRule):
        check_state(state, signals.rule, "init()")
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"update() of {signals.rule} must return (weights, state); got a {type(result).__name__}")
        result, after = result
        check_state(after, signals.rule, "update()")
        if any(name not in state or not torch.equal(value, state[name]) for name, value in kept.items()):
            raise ValueError(f"{signals.rule} must leave the state that it is given as it is, and return a new one")
    if not isinstance(result, Tensor) or result.dim() != 1:
        check_weights(result, signals.rule, gram)
    if not result.is_floating_point():
        raise TypeError(f"{signals.rule} must return weights that are floating-point; got {result.dtype}")
    if not torch.equal(shown, gram):
        raise ValueError(f"{signals.rule} must leave the Gram matrix that it is given as it is")
    if not torch.isfinite(result).all():
        raise ValueError(f"{signals.rule} must return finite weights; got {result.tolist()} for {gram.tolist()}")
    return len(result)


def _probe_coordinates(rule: CoordinateRule, signals: Signals) -> None:
    for m in (1, 2):
        rows = torch.tensor(_ROWS, device="cpu")[:m].clone()
        shown = rows.clone()
        try:
            direction = rule.combine(shown, **signals_for(signals, m, rows))
        except Exception:
            continue
        if not isinstance(direction, Tensor) or direction.shape != rows.shape[1:]:
            got = f"shape {tuple(direction.shape)}" if isinstance(direction, Tensor) else type(direction).__name__
            raise TypeError(f"combine() of {signals.rule} must return the direction, a tensor of shape (3,); got {got}")
        if not torch.equal(shown, rows):
            raise ValueError(f"{signals.rule} must leave the rows that it is given as they are")
        if not torch.isfinite(direction).all():
            raise ValueError(f"{signals.rule} must return a finite direction; got {direction.tolist()}")
