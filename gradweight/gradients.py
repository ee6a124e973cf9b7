"""Per-loss gradients: from named losses to one row each, by one of three engines.

- `autograd`: one `torch.autograd.grad` per loss. It walks only what that loss depends on, and each graph is freed
  as soon as no later loss needs it.
- `func`: the losses are functions of the parameters, differentiated at a `torch.func.vjp` level: one forward for a
  function that returns several losses, one forward and backward after the other for separate functions.
- `hooks`: one ``.backward()`` per loss, its ``.grad`` set aside. The only way through reentrant checkpoints and
  sharded (DTensor) parameters, whose gradients exist in ``.grad`` alone. As in any ``.backward()``, leaves that do
  not belong to the optimizer receive their gradients too.
- `batched`: one backward for all losses together, vectorised over them by `torch.vmap`. Chosen by name only: worth it
  where many losses share nearly the whole graph and its operations are small, so that launching them is what costs;
  where losses have graphs of their own it pushes zeros through all of them, for every loss. It holds m times the
  intermediate gradients at once, gives zeros instead of None where a loss does not reach a parameter that another
  one reaches, and fails where an operation's backward has no batching rule or acts in place (custom functions
  without a ``vmap``, recurrent layers of CUDA, compiled modules, sparse embeddings); then it says so.

A vector-Jacobian product with one-hot cotangents over all losses would be shorter, but pushes zeros through the
graphs of all the other losses, which nearly doubles a step where two losses have separate batches: what
``benchmarks/losses.py`` finds of TorchJD's batched way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .batched import by_batched
from .graph import Graph, are_sharded, check_nonempty, check_reached, reentrant_message
from .linalg.rows import Row

Losses: TypeAlias = (
    Mapping[str, Tensor]
    | Mapping[str, Callable[[dict[str, Tensor]], Tensor]]
    | Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
)

OnRow: TypeAlias = Callable[[str, Row], Row]

ENGINES = ("auto", "autograd", "batched", "func", "hooks")


@dataclass(frozen=True)
class Gradients:
    """What an engine returns: the names in order, the (detached) loss values and one row per loss."""

    names: tuple[str, ...]
    losses: list[Tensor]
    rows: list[Row]

    def ordered(self, names: Collection[str]) -> Gradients:
        """The same with the losses in the order of ``names``."""
        places = [self.names.index(name) for name in names]
        return Gradients(tuple(names), [self.losses[i] for i in places], [self.rows[i] for i in places])


def loss_gradients(
    losses: Losses,
    params: Sequence[Tensor],
    *,
    names: Sequence[str] | None,
    engine: str,
    scale: Tensor | None = None,
    retain_graph: bool = False,
    on_row: OnRow | None = None,
) -> Gradients:
    """Each loss's gradient with respect to ``params``.

    Args:
        losses: name -> scalar tensor, name -> function of the parameters, or one function that returns such a mapping.
        params: the parameters, all requiring gradients.
        names: their names, which the functions receive them by; None if they are not known.
        engine: one of `ENGINES`.
        scale: 0-dim; the gradients are multiplied by it (loss scaling), the returned losses are not.
        retain_graph: keep the graphs of tensor losses for another backward.
        on_row: handed the name and the row of each tensor loss before the next one is walked back; what it returns
            takes the row's place.

    Raises:
        TypeError, ValueError: as `gradweight.MultiObjectiveGradient.backward` lists them; nothing has been changed.
    """
    sharded = are_sharded(params)
    if sharded and (_are_functions(losses) or engine == "autograd"):
        got = "losses that are functions" if _are_functions(losses) else "engine='autograd'"
        raise ValueError(
            "sharded parameters (DTensor), whose gradients FSDP2 leaves in .grad alone, need losses that are tensors "
            f"and engine='auto' or 'hooks'; got {got}"
        )
    if _are_functions(losses):
        if engine in ("auto", "func"):
            return _by_func(losses, params, _named(params, names), scale)
        losses = evaluate(losses, params, names)
    if engine == "func":
        raise TypeError(
            "engine='func' needs losses that are functions of the parameters (a dict of named tensors); got tensors, "
            "whose graph is already built: use engine='autograd' or 'auto'"
        )
    values = check_losses(losses)
    graphs = Graph.of_each(list(values.values()))
    check_reached(values, graphs, params, engine)
    hooks = engine == "hooks" or (engine == "auto" and (sharded or any(g.reentrant for g in graphs)))
    retain = [retain_graph or graph.shared for graph in graphs]
    names_left = iter(values)

    def hand_over(row: Row) -> Row:
        name = next(names_left)
        check_nonempty([name], [row])
        return row if on_row is None else on_row(name, row)

    differentiate = by_batched if engine == "batched" else _by_hooks if hooks else by_autograd
    rows = differentiate(list(values.values()), params, retain, scale, hand_over)
    return Gradients(tuple(values), [loss.detach() for loss in values.values()], rows)


def evaluate(losses: Losses, params: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    """The losses as tensors with their graphs, functions called with the parameters themselves."""
    if _are_functions(losses):
        with torch.enable_grad():
            losses = _call(losses, _named(params, names))
    return check_losses(losses)


def check_losses(losses: object, *, with_graph: bool = True) -> dict[str, Tensor]:
    """The mapping as a dict, or an error that names what is wrong with it."""
    if not isinstance(losses, Mapping):
        raise TypeError(f"losses must be a mapping name -> scalar tensor; got {type(losses).__name__}")
    if not losses:
        raise ValueError("losses must name at least one loss; got an empty mapping")
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise TypeError(f"names of losses must be str; got {name!r} of type {type(name).__name__}")
        if not isinstance(loss, Tensor):
            hint = " (a loss that this process does not have needs a process_group of several)" if loss is None else ""
            raise TypeError(f"the loss {name!r} must be a scalar tensor; got {type(loss).__name__}{hint}")
        if loss.numel() != 1:
            raise ValueError(f"the loss {name!r} must be a scalar; got shape {tuple(loss.shape)}: reduce it first")
        if not loss.is_floating_point():
            raise TypeError(f"the loss {name!r} must be real and floating-point; got {loss.dtype}")
        if with_graph and not loss.requires_grad:
            raise ValueError(
                f"the loss {name!r} has no graph (requires_grad is False): it was detached, computed under no_grad, "
                "or depends on no parameter"
            )
    return dict(losses)


def by_autograd(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    retain: Sequence[bool],
    scale: Tensor | None = None,
    hand_over: Callable[[Row], Row] = lambda row: row,
    create_graph: bool = False,
) -> list[Row]:
    """One `torch.autograd.grad` per loss, `None` where it does not reach a parameter, sparse gradients densified."""
    rows = []
    for loss, keep in zip(losses, retain, strict=True):
        row = torch.autograd.grad(
            loss, params, cotangent_of(loss, scale), retain_graph=keep, create_graph=create_graph, allow_unused=True
        )
        rows.append(hand_over([dense(t) for t in row]))
    return rows


def _by_hooks(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    retain: Sequence[bool],
    scale: Tensor | None,
    hand_over: Callable[[Row], Row],
) -> list[Row]:
    before = [p.grad for p in params]
    rows: list[Row] = []
    try:
        for loss, keep in zip(losses, retain, strict=True):
            for p in params:
                p.grad = None
            loss.backward(cotangent_of(loss, scale), retain_graph=keep)  # type: ignore[no-untyped-call]
            rows.append(hand_over([dense(p.grad) for p in params]))
    finally:
        for p, grad in zip(params, before, strict=True):
            p.grad = grad
    return rows


def _by_func(losses: Losses, params: Sequence[Tensor], named: dict[str, Tensor], scale: Tensor | None) -> Gradients:
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
        values = check_losses(function(dict(inputs)))
        graphs = Graph.of_each(list(values.values()))
        if any(graph.reentrant for graph in graphs):
            raise RuntimeError(reentrant_message("engine='func'"))
        rows = by_autograd(list(values.values()), list(inputs.values()), [graph.shared for graph in graphs], scale)
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


def check_functions(losses: Mapping[str, object]) -> None:
    """Raise unless every entry is a function: a mix of tensors and functions has no one meaning."""
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise TypeError(f"names of losses must be str; got {name!r} of type {type(name).__name__}")
        if not callable(loss):
            raise TypeError(
                f"losses must be all tensors or all functions of the parameters; {name!r} is {type(loss).__name__}"
            )


def _call(losses: Losses, named: dict[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(losses, Mapping):
        return losses(dict(named))
    check_functions(losses)
    return {name: loss(dict(named)) for name, loss in losses.items()}  # type: ignore[operator]


def _named(params: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    if names is None:
        raise ValueError(
            "losses that are functions of the parameters need parameter names: build the base optimizer from "
            "module.named_parameters(), or pass params=module.named_parameters() to MultiObjectiveGradient"
        )
    return dict(zip(names, params, strict=True))


def cotangent_of(loss: Tensor, scale: Tensor | None) -> Tensor | None:
    """The scale as the gradient of the loss by itself; None, which is 1, without one."""
    return None if scale is None else scale.to(loss.device, loss.dtype).expand_as(loss)


def dense(gradient: Tensor | None) -> Tensor | None:
    """The gradient itself, or a sparse one (of an embedding) written out."""
    return gradient if gradient is None or gradient.layout == torch.strided else gradient.to_dense()


def _are_functions(losses: object) -> bool:
    values: Iterable[Any] = losses.values() if isinstance(losses, Mapping) else ()
    return callable(losses) or any(callable(loss) and not isinstance(loss, Tensor) for loss in values)
