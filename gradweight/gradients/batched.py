"""Batched: one backward for all losses together, vectorised over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..linalg.rows import Row

__all__ = ["by_batched", "one_hot", "unbatched_message"]


def by_batched(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    retain: Sequence[bool],
    scale: Tensor | None,
    at_once: int | None = None,
) -> Iterator[Row]:
    """The rows of all losses by one `torch.autograd.grad` with ``is_grads_batched``, one-hot over the losses.

    With ``at_once``, one for so many losses at a time: fewer intermediate gradients. A gradient that a loss does not
    have is zeros if another loss has it, and None if none has.

    Raises:
        RuntimeError: an operation's backward cannot be vectorised; the graphs may have been freed by then.
    """
    cotangents = one_hot(losses, scale)
    m = len(losses)
    for start in range(0, m, at_once or m):
        stop = min(m, start + (at_once or m))
        keep = retain[-1] or stop < m
        hot = [c[start:stop] for c in cotangents]
        try:
            found = torch.autograd.grad(
                list(losses), params, hot, retain_graph=keep, allow_unused=True, is_grads_batched=True
            )
        except RuntimeError as error:
            raise RuntimeError(unbatched_message("batched")) from error
        for i in range(stop - start):
            yield [None if t is None else t[i] for t in found]


def one_hot(losses: Sequence[Tensor], scale: Tensor | None) -> list[Tensor]:
    """For each loss its cotangents in m backward passes, all zero but in its own: (m, *loss.shape)."""
    cotangents = []
    for i, loss in enumerate(losses):
        hot = torch.zeros((len(losses), *loss.shape), dtype=loss.dtype, device=loss.device)
        # a tensor, since the host waits for a number that it copies to the device
        hot[i] = torch.ones_like(loss) if scale is None else scale.to(loss.device, loss.dtype)
        cotangents.append(hot)
    return cotangents


def unbatched_message(engine: str) -> str:
    """Why ``engine`` could not go backward, and what can."""
    return (
        f"engine={engine!r} could not vectorise the backward of these losses over them (a custom function without a "
        "vmap rule, an operation that acts in place, a recurrent layer, a compiled module, a sparse embedding?): "
        "engine='autograd' takes one backward for each loss instead, and needs nothing of the kind"
    )
