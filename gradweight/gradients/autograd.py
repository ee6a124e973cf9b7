"""Engine "autograd": one `torch.autograd.grad` per loss, each of which traverses only that loss's graph."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..linalg.host_access import is_captured, is_eager, is_launch_bound
from ..linalg.rows import Row

__all__ = ["by_autograd", "cotangent_of", "dense", "explain_donated_buffers"]


def by_autograd(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    retain: Sequence[bool],
    scale: Tensor | None = None,
    create_graph: bool = False,
) -> Iterator[Row]:
    """One `torch.autograd.grad` per loss, `None` where it does not reach a parameter, sparse gradients densified.

    A row is yielded before the backward pass of the next loss begins.
    """
    for loss, keep in zip(losses, retain, strict=True):
        try:
            row = torch.autograd.grad(
                loss, params, cotangent_of(loss, scale), retain_graph=keep, create_graph=create_graph, allow_unused=True
            )
        except RuntimeError as error:
            explain_donated_buffers(error)
            raise
        yield [t if t is None or t.layout is torch.strided else t.to_dense() for t in row]


def explain_donated_buffers(error: RuntimeError) -> None:
    """Raise an error that says what to do, if ``error`` is the one that torch raises for compiled modules."""
    if "donated buffer" in str(error):
        raise RuntimeError(
            "several losses share the graph of a compiled module whose backward pass was compiled for a single use, by "
            "an earlier backward pass that did not retain the graph: set torch._functorch.config.donated_buffer = "
            "False before that one, or call torch._dynamo.reset() after it"
        ) from error


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
