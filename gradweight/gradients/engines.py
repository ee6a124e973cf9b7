"""Per-loss gradients: from named losses to one row each, by one of four engines; a fifth makes no rows.

- `autograd`: one `torch.autograd.grad` per loss. It traverses only what that loss depends on, and each part of a
  graph is freed as soon as no later loss needs it. What a custom function writes to ``.grad`` in its backward is added.
- `func`: the losses are functions of the parameters, differentiated at a `torch.func.vjp` level: one forward for a
  function that returns several losses, one forward and backward after the other for separate functions.
- `hooks`: one ``.backward()`` per loss, its ``.grad`` set aside. The only way through reentrant checkpoints and
  sharded (DTensor) parameters, whose gradients exist in ``.grad`` alone.
- `batched`: one backward for all losses together, vectorised over them by `torch.vmap`. Worth it on a GPU where three
  losses or more share nearly the whole graph and its operations are small, so that launching them is what costs: there
  ``engine="auto"`` takes it (`gradweight.gradients.auto`), and goes back to one backward pass for each loss where an
  operation cannot be batched. On a CPU it is chosen by name only. Where losses have graphs of their own it pushes zeros
  through all of them, for every loss. It holds m times the intermediate gradients at once, gives zeros instead of None
  where a loss does not reach a parameter that another one reaches, and fails where an operation's backward has no
  batching rule or acts in place (custom functions without a ``vmap``, recurrent layers of CUDA, compiled modules,
  sparse embeddings); then it says so.
- `gram`: no rows. One backward as with `batched` gives the Gram matrix alone, a parameter's gradients being dropped as
  soon as they are multiplied; another gives the gradient of the weighted sum (`gradweight.gradients.streamed`). For
  many losses or large models, where m rows of k entries are what fills the memory; and for a loss per sample, of which
  linear layers need no gradient at all (`gradweight.gradients.sample_layers`).

Leaves that do not belong to the optimizer keep the ``.grad`` that they have, whatever the engine: a generator's step
is not to fill in its discriminator's. What a function's own backward does inside itself, as that of a reentrant
checkpoint, is not seen.

A vector-Jacobian product with one-hot cotangents over all losses would be shorter, but pushes zeros through the
graphs of all the other losses, which nearly doubles a step where two losses have separate batches: what
``benchmarks/cost/losses.py`` finds of TorchJD's batched way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from ..linalg.layout import any_sharded
from ..linalg.rows import Row
from .auto import AutoEngine
from .autograd import by_autograd
from .batched import by_batched
from .entries import Entry, starts_of
from .func import by_func
from .graph import Graph, check_nonempty, check_reached
from .hooks import by_hooks
from .inner import by_autograd_with_inner
from .losses import Losses, are_functions, check_losses, evaluate, named_parameters
from .release import releasing
from .results import Gradients

__all__ = ["ENGINES", "Engine", "loss_gradients"]

Engine: TypeAlias = Literal["auto", "autograd", "batched", "func", "gram", "hooks"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def loss_gradients(
    losses: Losses,
    params: Sequence[Tensor],
    *,
    names: Sequence[str] | None,
    engine: Engine,
    scale: Tensor | None = None,
    retain_graph: bool = False,
    auto: AutoEngine | None = None,
) -> Gradients:
    """Each loss's gradient with respect to ``params``.

    Args:
        losses: name -> scalar tensor, name -> function of the parameters, or one function that returns such a mapping.
        params: the parameters, all requiring gradients.
        names: their names, which the functions receive them by; None if they are not known.
        engine: one of `ENGINES`, but "gram".
        scale: 0-dim; the gradients are multiplied by it (loss scaling), the returned losses are not.
        retain_graph: keep the graphs of tensor losses for another backward.
        auto: what is remembered for ``engine="auto"``; without it, one backward pass for each loss.

    Returns:
        The gradients. Of losses that are tensors, rows come from an iterator, one backward pass after the other.

    Raises:
        TypeError, ValueError: as `gradweight.MultiObjectiveGradient.backward` lists them; nothing has been changed.
    """
    sharded = any_sharded(params)
    if sharded and (are_functions(losses) or engine == "autograd"):
        got = "losses that are functions" if are_functions(losses) else "engine='autograd'"
        raise ValueError(
            "sharded parameters (DTensor), whose gradients FSDP2 leaves in .grad alone, need losses that are tensors "
            f"and engine='auto' or 'hooks'; got {got}"
        )
    if are_functions(losses):
        if engine in ("auto", "func"):
            if auto is not None:
                auto.used = "func"
            return by_func(losses, params, named_parameters(params, names), scale)
        losses = evaluate(losses, params, names)
    if engine == "func":
        raise TypeError(
            "engine='func' needs losses that are functions of the parameters (a dict of named tensors); got tensors, "
            "whose graph is already built: use engine='autograd' or 'auto'"
        )
    values = check_losses(losses)
    starts = starts_of(values.values(), params) if engine in ("auto", "autograd") else list(values.values())
    ends = [start.term if isinstance(start, Entry) else start for start in starts]
    graphs = Graph.of_each(ends)
    check_reached(dict(zip(values, ends, strict=True)), graphs, params, engine)
    custom = True in [graph.custom for graph in graphs]
    rows: Iterable[Row] | None = None
    if engine == "auto":
        engine = "hooks" if sharded or True in [graph.reentrant for graph in graphs] else "autograd"
        if auto is not None and engine == "autograd" and not custom:
            rows = auto.batched_rows(values, graphs, params, retain_graph, scale)
            engine = "autograd" if rows is None else "batched"
    if auto is not None:
        auto.used = engine
    if engine == "hooks" and any(isinstance(start, Entry) for start in starts):
        graphs = Graph.of_each(list(values.values()))  # which it goes through, the stack too
    if rows is None:
        retain = [retain_graph or graph.shared for graph in graphs]
        if engine == "hooks":
            rows = by_hooks(list(values.values()), params, graphs, retain, scale)
        elif engine == "batched":
            rows = by_batched(list(values.values()), params, retain, scale)
        elif custom and any(p.is_leaf for p in params):  # the backward of a function writes to the .grad of leaves
            rows = by_autograd_with_inner(starts, params, graphs, retain, scale)
        else:
            rows = by_autograd(starts, params, retain, scale)
        if not retain_graph and engine != "batched":
            rows = releasing(rows, graphs, params)
    return Gradients(tuple(values), [loss.detach() for loss in values.values()], _nonempty(values, rows))


def _nonempty(names: Iterable[str], rows: Iterable[Row]) -> Iterator[Row]:
    for name, row in zip(names, rows, strict=True):
        check_nonempty([name], [row])
        yield row
