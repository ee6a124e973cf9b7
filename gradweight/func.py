"""The functional counterpart, in the style of `torch.func`: functions to functions, nothing stored.

Both transforms compose with `torch.vmap` (an ensemble of runs trained side by side, each with its own Gram matrix
and weights), with ``torch.compile(fullgraph=True)`` and with the transforms of `torch.func` themselves.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .combination import Combination
from .gradients.autograd import by_autograd
from .gradients.losses import check_functions, check_losses
from .linalg.gram import gram
from .linalg.layout import first_coordinates
from .linalg.statistics import statistics
from .rule import STATISTICS, CoordinateRule, Rule, Signals, StatefulRule, check_weights, refuse_averages

__all__ = ["combined_grad", "loss_gradients"]

Params: TypeAlias = dict[str, Tensor]
LossesFunction: TypeAlias = Callable[..., Mapping[str, Tensor]] | Mapping[str, Callable[..., Tensor]]


def loss_gradients(losses_fn: LossesFunction) -> Callable[..., tuple[dict[str, Params], dict[str, Tensor]]]:
    """A function that computes the gradient of every named loss.

    ``loss_gradients(f)(params, *args, **kwargs) -> (gradients, losses)``, where ``gradients[name][p]`` is the
    derivative of ``f(params, *args, **kwargs)[name]`` by ``params[p]``, of the same shape, and zero where the loss
    does not depend on it, as everywhere in `torch.func`.

    One function that returns several losses runs once. Separate functions, in a mapping, run one after the other.
    In eager mode each loss walks its own graph only; under ``torch.compile`` the losses of one function are
    differentiated by one-hot cotangents, and what the compiler does not fold away is walked for every loss.

    Args:
        losses_fn: a function of (params, *args, **kwargs) that returns a mapping name -> scalar, or a mapping from
            names to functions that return a scalar.

    Raises:
        TypeError, ValueError: on the call, for an empty mapping or a loss that is not a scalar tensor.

    Example:
        >>> def losses(params, x):
        ...     return {"fit": (params["w"] * x).sum(), "size": params["w"].square().sum()}
        >>> gradients, values = loss_gradients(losses)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
        >>> gradients["fit"]["w"], gradients["size"]["w"]
        (tensor([3., 4.]), tensor([2., 4.]))
    """

    def gradients(params: Params, *args: Any, **kwargs: Any) -> tuple[dict[str, Params], dict[str, Tensor]]:
        found, values, _ = _differentiate(losses_fn, params, args, kwargs, has_signals=False)
        return found, values

    return gradients


def combined_grad(losses_fn: LossesFunction, rule: Rule, *, has_signals: bool = False) -> Callable[..., Any]:
    """A function that computes the direction which a rule combines from the gradients of the named losses.

    ``combined_grad(f, rule)(params, *args, **kwargs) -> (direction, combination)``, the direction a dict like
    ``params``, the `Combination` what was seen and decided. A stateful rule takes its state as the keyword
    ``rule_state`` (None at first) and returns the next one: ``(direction, combination, rule_state)``.

    If any gradient is not finite, the whole direction is NaN.

    Args:
        losses_fn: as for `loss_gradients`.
        rule: how to weight the losses; see `gradweight.rules`.
        has_signals: True if ``losses_fn`` is one function and returns ``(losses, signals)``, the signals a
            mapping from the names that the rule declares to 0-dim tensors.

    Raises:
        TypeError: ``rule`` is not a rule; on the call, a missing or unknown signal.
        ValueError: ``has_signals`` with separate functions; on the call, what `loss_gradients` raises, or weights of a
            wrong shape.

    Example:
        >>> from gradweight.rules import AngleBisector
        >>> def losses(params):
        ...     return {"a": 3 * params["w"][0], "b": 4 * params["w"][1]}
        >>> direction, seen = combined_grad(losses, AngleBisector())({"w": torch.zeros(2)})
        >>> direction["w"]
        tensor([1., 1.])

        An ensemble, each member with weights of its own:

        >>> direction, seen = torch.vmap(combined_grad(losses, AngleBisector()))({"w": torch.zeros(5, 2)})
        >>> direction["w"].shape, seen.weights.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    refuse_averages(rule, "combined_grad", "use gradweight.MultiObjectiveGradient")
    declared = Signals.of(rule)
    stateful = isinstance(rule, StatefulRule)
    by_coordinate = isinstance(rule, CoordinateRule)
    if has_signals and isinstance(losses_fn, Mapping):
        raise ValueError("has_signals needs one function that returns (losses, signals); got a mapping of functions")

    def direction(params: Params, *args: Any, **kwargs: Any) -> Any:
        state = kwargs.pop("rule_state", None) if stateful else None
        gradients, losses, signals = _differentiate(losses_fn, params, args, kwargs, has_signals)
        declared.check(
            signals, "the losses function", by_themselves={"names", "losses", "offset", "reaches", *STATISTICS}
        )
        names = tuple(losses)
        rows = [list(gradients[name].values()) for name in names]
        matrix = gram(rows)
        values = torch.stack([loss.reshape(()) for loss in losses.values()]).to(matrix)
        if declared.statistics:
            found = statistics(rows)
            signals |= {"max_abs": found.max_abs.to(matrix), "mean_abs": found.mean_abs.to(matrix)}
        given = declared.select({"names": names, "losses": values, **signals})
        finite = torch.isfinite(matrix).all()

        if by_coordinate:
            weights = torch.full_like(matrix[0], torch.nan)
            combined = []
            for offset, *tensors in zip(first_coordinates(rows[0])[:-1], *rows, strict=True):
                stacked, is_complex = torch.stack(tensors), tensors[0].is_complex()
                own = given | declared.select({"offset": offset})
                entry = rule.combine(torch.view_as_real(stacked) if is_complex else stacked, **own)  # type: ignore[union-attr]
                entry = torch.where(finite, entry, torch.nan)
                combined.append(torch.view_as_complex(entry) if is_complex else entry)
        else:
            if stateful:
                weights, state = rule.update(matrix, rule.init(matrix) if state is None else state, **given)  # type: ignore[union-attr]
            else:
                weights = rule(matrix, **given)  # type: ignore[operator,assignment]
            check_weights(weights, declared.rule, matrix)
            weights = torch.where(finite, weights, torch.nan)
            combined = [_weighted_sum(weights, tensors) for tensors in zip(*rows, strict=True)]

        result = dict(zip(params, combined, strict=True)), Combination(names, values, matrix, weights)
        return (*result, state) if stateful else result

    return direction


def _weighted_sum(weights: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
    total = sum(
        w * t.to(torch.promote_types(t.dtype, torch.float32)) for w, t in zip(weights.unbind(), tensors, strict=True)
    )
    return total.to(tensors[0].dtype)  # type: ignore[union-attr]


def _differentiate(
    losses_fn: LossesFunction, params: Params, args: tuple[Any, ...], kwargs: dict[str, Any], has_signals: bool
) -> tuple[dict[str, Params], dict[str, Tensor], dict[str, Any]]:
    if not isinstance(losses_fn, Mapping):
        one = losses_fn if has_signals else lambda *a, **k: (losses_fn(*a, **k), {})
        return _vjps(one, params, args, kwargs)
    check_functions(losses_fn)
    gradients: dict[str, Params] = {}
    values: dict[str, Tensor] = {}
    for name, function in losses_fn.items():
        some, value, _ = _vjps(lambda *a, name=name, f=function, **k: ({name: f(*a, **k)}, {}), params, args, kwargs)
        gradients |= some
        values |= value
    return gradients, values, {}


def _vjps(
    function: Callable[..., Any], params: Params, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Params], dict[str, Tensor], dict[str, Any]]:
    if torch.compiler.is_compiling():  # Dynamo does not trace torch.autograd.grad, but does trace vjp
        values, vjp, signals = torch.func.vjp(lambda p: _checked(function(p, *args, **kwargs)), params, has_aux=True)  # type: ignore[misc]
        hot = {name: torch.ones_like(value) for name, value in values.items()}
        cold = {name: torch.zeros_like(value) for name, value in values.items()}
        gradients = {name: vjp({**cold, name: hot[name]})[0] for name in values}
        return gradients, values, signals

    def record(inputs: Params) -> tuple[dict[str, Tensor], tuple[dict[str, Params], Any]]:
        values, signals = _checked(function(inputs, *args, **kwargs))
        leaves = list(inputs.values())
        # inside the level, where the graph is, each loss is differentiated through what it depends on and no more;
        # the graph is kept and differentiated itself, for transforms outside this one
        rows = list(by_autograd(list(values.values()), leaves, [True] * len(values), create_graph=True))
        gradients = {
            name: {p: torch.zeros_like(x) if t is None else t for (p, x), t in zip(inputs.items(), row, strict=True)}
            for name, row in zip(values, rows, strict=True)
        }
        return values, (gradients, signals)

    values, _, (gradients, signals) = torch.func.vjp(record, params, has_aux=True)  # type: ignore[misc]
    return gradients, values, signals


def _checked(output: tuple[Mapping[str, Tensor], Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    losses, signals = output
    return check_losses(losses), dict(signals)
