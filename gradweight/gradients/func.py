"""Engine "func": losses that are functions of the parameters, differentiated at a `torch.func.vjp` level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..linalg.rows import Row
from .autograd import by_autograd
from .graph import Graph, check_nonempty, reentrant_message
from .losses import Losses, check_functions, check_losses
from .results import Gradients

__all__ = ["by_func"]


def by_func(losses: Losses, params: Sequence[Tensor], named: dict[str, Tensor], scale: Tensor | None) -> Gradients:
    """The gradients of losses that are functions of the parameters.

    Separate functions are run one forward and backward pass after the other; one function is run once.
    """
    functions: list[Callable[[dict[str, Tensor]], Mapping[str, Tensor]]]
    if isinstance(losses, Mapping):
        check_functions(losses)
        functions = [lambda p, name=name, f=f: {name: f(p)} for name, f in losses.items()]  # type: ignore[misc]
    else:
        functions = [losses]
    names: list[str] = []
    values: list[Tensor] = []
    rows: list[Row] = []
    for function in functions:
        found, some_values, some_rows = _vjp(function, params, named, scale)
        names += found
        values += some_values
        rows += some_rows
    return Gradients(tuple(names), values, rows)


def _vjp(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    params: Sequence[Tensor],
    named: dict[str, Tensor],
    scale: Tensor | None,
) -> tuple[list[str], list[Tensor], list[Row]]:
    """The rows of one function's losses, taken inside a `torch.func.vjp` level.

    `torch.func.vjp` itself would be called once per loss with a one-hot cotangent, and fills in zeros where a loss
    does not reach a parameter. Differentiating inside the level, where the graph is, does neither.
    """
    names: list[str] = []
    reached: list[list[bool]] = []

    def record(inputs: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
        values = check_losses(_run(function, dict(inputs)))
        graphs = Graph.of_each(list(values.values()))
        if any(graph.reentrant for graph in graphs):
            raise RuntimeError(reentrant_message("engine='func'"))
        retain = [graph.shared for graph in graphs]
        rows = list(by_autograd(list(values.values()), list(inputs.values()), retain, scale))
        check_nonempty(values, rows)
        names.extend(values)
        reached.extend([t is not None for t in row] for row in rows)
        return tuple(values.values()), [[t for t in row if t is not None] for row in rows]

    inputs = {name: p.detach() for name, p in named.items()}
    values, _, found = torch.func.vjp(record, inputs, has_aux=True)  # type: ignore[misc]
    rows: list[Row] = []
    for mask, tensors in zip(reached, found, strict=True):
        remaining = iter(tensors)
        rows.append([next(remaining) if hit else None for hit in mask])
    return names, [value.detach() for value in values], rows


def _run(function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], inputs: dict[str, Tensor]) -> Any:
    try:
        return function(inputs)
    except RuntimeError as error:
        if "mutate a captured Tensor" not in str(error):
            raise
        raise RuntimeError(
            "a loss that is a function writes to a tensor outside, as batch normalization writes its running "
            "statistics in training mode: pass engine='autograd' to MultiObjectiveGradient, or put the module into "
            "eval(), or build it with track_running_stats=False"
        ) from error
