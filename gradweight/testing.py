"""What the author of a rule wants to know before it trains anything: `check_rule`."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .contract.rule_check import check_rule_once, check_state, signals_for
from .rule import CoordinateRule, Rule, Signals, StatefulRule, check_weights
from .torch_private import is_transformed

__all__ = ["check_rule"]

Decide: TypeAlias = Callable[..., Tensor]


def check_rule(
    rule: Rule,
    *,
    losses: int | Sequence[str] = 3,
    signals: Mapping[str, Any] | None = None,
    reads_values: bool = False,
    arrays: bool = True,
) -> None:
    """Raise `AssertionError` with the first thing that is wrong with a rule, for the tests of whoever writes it.

    It is shown Gram matrices of gradients in general position, opposed, equal, exactly zero, and of norms up to 1e6
    apart, in float64 and float32. It must

    - give one finite, floating-point weight per loss, (m, m) -> (m,), in the dtype of the Gram matrix;
    - be a function of what it is given: the same for the same, with nothing written to, in the rule or in its input;
    - of a state, return a new one with the same names, shapes and dtypes, all tensors, for the next step to go on from;
    - decide under `torch.func.vmap` what it decides one by one;
    - decide without looking at a value on the host, which would wait for a GPU and keep it out of a CUDA graph;
    - decide of NumPy arrays what it decides of tensors.

    A rule that acts on coordinates is held to the same with rows, (m, k) -> (k,).

    Args:
        rule: the rule.
        losses: how many losses it is shown, or their names.
        signals: name -> value, what it needs beyond those that are supplied automatically.
        reads_values: True for a rule that is meant to look at values on the host, such as one that calls a solver;
            vmap has none to show it either.
        arrays: False for a rule that is written for tensors only.

    Raises:
        AssertionError: something does not hold; it says what was expected and what was got.
        TypeError, ValueError: what `gradweight.MultiObjectiveGradient` raises for what is no rule.

    Example:
        >>> from gradweight.rules import UPGrad
        >>> check_rule(UPGrad())
        >>> class Counts:
        ...     seen = 0
        ...     def __call__(self, gram, /):
        ...         self.seen += 1
        ...         return gram[0] * 0 + self.seen
        >>> check_rule(Counts())
        Traceback (most recent call last):
        AssertionError: Counts must decide the same of the same Gram matrix; got [2., 2., 2.] after [1., 1., 1.]
    """
    check_rule_once(copy.deepcopy(rule))
    name, declared = Signals.of(rule).rule, Signals.of(rule)
    names = tuple(f"loss {i}" for i in range(losses)) if isinstance(losses, int) else tuple(losses)
    losses = len(names)

    def decide(shown: Any) -> Any:
        return _decided(rule, name, shown, _given(declared, {"names": names, **(signals or {})}, shown))

    for dtype in (torch.float64, torch.float32):
        for rows in _gradients(losses, dtype):
            shown = rows if isinstance(rule, CoordinateRule) else rows @ rows.mT
            before, remembered = shown.clone(), _fields(rule)
            first, again = decide(shown), decide(shown)
            _check_answer(rule, name, first, shown)
            what = "rows" if isinstance(rule, CoordinateRule) else "Gram matrix"
            if not torch.equal(first, again):
                raise AssertionError(
                    f"{name} must decide the same of the same {what}; got {_short(again)} after {_short(first)}"
                )
            if not torch.equal(shown, before):
                raise AssertionError(f"{name} must leave the {what} that it is given as it is")
            if _fields(rule) != remembered:
                raise AssertionError(
                    f"{name} must not change itself, which no checkpoint keeps: return a state instead"
                )
    shown = torch.stack([r if isinstance(rule, CoordinateRule) else r @ r.mT for r in _gradients(losses)[:2]])
    if not reads_values:
        _check_batch(decide, name, shown)
        _check_without_values(decide, name, shown[0])
    if arrays:
        _check_arrays(decide, name, shown[0])


def _decided(rule: Rule, name: str, shown: Any, given: dict[str, Any]) -> Any:
    """Weights or direction; of a rule with a state, in its second step."""
    if not isinstance(rule, StatefulRule):
        return rule.combine(shown, **given) if isinstance(rule, CoordinateRule) else rule(shown, **given)
    state = rule.init(shown)
    answer: Any = None
    for _ in range(2):
        kept = {key: value.clone() for key, value in state.items()} if _is_plain(shown) else None
        answer, after = rule.update(shown, state, **given)
        if kept is not None:
            _check_state(name, state, kept, after)
        state = after
    return answer


def _check_state(name: str, state: Any, kept: dict[str, Any], after: Any) -> None:
    check_state(after, name, "update()")
    if any(not torch.equal(state[key], value) for key, value in kept.items()):
        raise AssertionError(f"{name} must leave the state that it is given as it is, and return a new one")
    for_each = {key: (tuple(value.shape), value.dtype) for key, value in kept.items()}
    returned = {key: (tuple(value.shape), value.dtype) for key, value in after.items()}
    if for_each != returned:
        raise AssertionError(f"{name} must return a state like the one that it is given, {for_each}; got {returned}")


def _check_answer(rule: Rule, name: str, answer: Any, shown: Tensor) -> None:
    if not isinstance(rule, CoordinateRule):
        check_weights(answer, name, shown)
    elif not isinstance(answer, Tensor) or answer.shape != shown.shape[1:]:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise AssertionError(f"combine() of {name} must return a tensor of shape {tuple(shown.shape[1:])}; got {got}")
    if answer.dtype != shown.dtype:
        raise AssertionError(f"{name} must answer in the dtype that it is shown, {shown.dtype}; got {answer.dtype}")
    if not torch.isfinite(answer).all():
        raise AssertionError(f"{name} must give finite numbers; got {_short(answer)} for {shown.tolist()}")


def _check_batch(decide: Decide, name: str, shown: Tensor) -> None:
    expected = torch.stack([decide(one) for one in shown])
    try:
        found = torch.func.vmap(decide)(shown)
    except Exception as error:
        raise AssertionError(f"{name} must decide under torch.func.vmap; {type(error).__name__}: {error}") from error
    if not torch.allclose(found, expected, rtol=1e-9, atol=1e-12):  # products are summed in another order
        raise AssertionError(f"{name} must decide the same under vmap; got {_short(found)} for {_short(expected)}")


def _check_without_values(decide: Decide, name: str, shown: Tensor) -> None:
    with FakeTensorMode() as mode:
        try:
            decide(mode.from_tensor(shown))
        except Exception as error:
            raise AssertionError(
                f"{name} must decide without the host seeing a value (no item(), float(), bool(), tolist() or if on a "
                f"tensor), or say reads_values=True; {type(error).__name__}: {error}"
            ) from error


def _check_arrays(decide: Decide, name: str, shown: Tensor) -> None:
    try:
        found = np.asarray(decide(shown.numpy()))
    except Exception as error:
        raise AssertionError(
            f"{name} must decide of NumPy arrays too (gradweight.rule.array_namespace), or say arrays=False; "
            f"{type(error).__name__}: {error}"
        ) from error
    expected = decide(shown).numpy()
    if not np.allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max()):
        raise AssertionError(f"{name} must decide of NumPy arrays what it decides of tensors; got {found}, {expected}")


def _gradients(m: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Rows, (m, m + 2) each: in general position, of norms far apart, one zero, two equal, two opposed."""
    general = torch.randn(m, m + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = general * torch.logspace(-3, 3, m, dtype=torch.float64)[:, None]
    zero, equal, opposed = general.clone(), general.clone(), general.clone()
    zero[0] = 0
    equal[-1] = equal[0]
    opposed[-1] = -2 * opposed[0]
    return [rows.to(dtype) for rows in (general, apart, zero, equal, opposed)]


def _given(declared: Signals, signals: Mapping[str, Any], like: Any) -> dict[str, Any]:
    tensors = signals_for(
        declared, len(signals["names"]), like if isinstance(like, Tensor) else torch.zeros((), dtype=torch.float64)
    )
    found = dict(declared.select({**tensors, **signals}))
    if isinstance(like, Tensor):
        return found
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in found.items()}


def _fields(rule: Any) -> str:
    return repr(sorted(vars(rule).items())) if hasattr(rule, "__dict__") else ""


def _is_plain(shown: Any) -> bool:
    return type(shown) is Tensor and not is_transformed(shown)


def _short(values: Tensor) -> str:
    return str(values.detach()).removeprefix("tensor(").split("]")[0] + "]"
