"""Engine "autograd": one `torch.autograd.grad` per loss, each of which traverses only that loss's graph."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from types import TracebackType

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..linalg.host_access import is_captured, is_eager, is_launch_bound
from ..linalg.rows import Row
from .entries import Entry

__all__ = ["BackwardPasses", "begun", "by_autograd", "cotangent_of", "dense"]


def by_autograd(
    losses: Sequence[Tensor | Entry],
    params: Sequence[Tensor],
    retain: Sequence[bool],
    scale: Tensor | None = None,
    create_graph: bool = False,
) -> Iterator[Row]:
    """One `torch.autograd.grad` per loss, `None` where it does not reach a parameter, sparse gradients densified.

    A row is yielded before the backward pass of the next loss begins.
    """
    passes = BackwardPasses()
    for loss, keep in zip(losses, retain, strict=True):
        with passes:
            start, cotangent = begun(loss, scale)
            row = torch.autograd.grad(
                start, params, cotangent, retain_graph=keep, create_graph=create_graph, allow_unused=True
            )
        yield [t if t is None or t.layout is torch.strided else t.to_dense() for t in row]


def begun(loss: Tensor | Entry, scale: Tensor | None) -> tuple[Tensor | GradientEdge, Tensor | None]:
    """Where the walk back from a loss begins, and its cotangent there."""
    if isinstance(loss, Entry):
        return loss.term, loss.cotangent(cotangent_of(loss.loss, scale))
    return loss, cotangent_of(loss, scale)


class BackwardPasses:
    """A context for each of several backward passes, one after the other, that says what to do about their errors.

    Torch's own, of a compiled module that works for one pass only, is told by its text. A custom function that works
    for one pass only, because it deletes what it has saved, raises whatever its code comes to when that is missing.
    """

    def __init__(self) -> None:
        self.again = False

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, RuntimeError) and "donated buffer" in str(error):
            raise RuntimeError(_DONATED) from error
        if self.again and isinstance(error, AttributeError | IndexError | KeyError | TypeError):
            raise RuntimeError(f"{_ONE_SHOT}: {type(error).__name__}: {error}") from error
        self.again = True


_DONATED = (
    "several losses share the graph of a compiled module whose backward pass was compiled for a single use, by an "
    "earlier backward pass that did not retain the graph: set torch._functorch.config.donated_buffer = False before "
    "that one, or call torch._dynamo.reset() after it"
)
_ONE_SHOT = (
    "the backward pass of the second loss, or a later one, failed where that of the first did not. If the losses share "
    "a custom function that works for one pass only, such as an activation checkpoint that deletes its inputs, use "
    "torch.utils.checkpoint.checkpoint(..., use_reentrant=False) in its place, or compute each loss by a forward pass "
    "of its own. The error was"
)


def cotangent_of(loss: Tensor, scale: Tensor | None) -> Tensor | None:
    """The scale as the gradient of the loss by itself; without one 1, or None, which is 1."""
    if scale is not None:
        return scale.to(loss.device, loss.dtype).expand_as(loss)
    if is_launch_bound(loss.device) and is_eager(loss) and not is_captured(loss):
        return _one(loss.device, loss.dtype).expand_as(loss)
    return None


@functools.lru_cache(maxsize=16)
def _one(device: torch.device, dtype: torch.dtype) -> Tensor:
    # autograd would launch an operation to make one for every backward pass. A gradient that is this tensor itself has
    # another owner, here, so it is never written to in place
    return torch.ones((), device=device, dtype=dtype)


def dense(gradient: Tensor | None) -> Tensor | None:
    """The gradient itself, or a sparse one (of an embedding) written out."""
    return gradient if gradient is None or gradient.layout == torch.strided else gradient.to_dense()
