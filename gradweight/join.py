"""Join: one scalar for hosts that insist on calling ``.backward()`` themselves."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Joined", "join"]


class Joined:
    """What waits inside the scalar until the host calls ``.backward()`` on it.

    Args:
        losses: name -> loss, with their graphs.
        on_backward: called with the losses and the incoming cotangent.
    """

    def __init__(self, losses: dict[str, Tensor], on_backward: Callable[[dict[str, Tensor], Tensor], object]) -> None:
        self.losses = losses
        self.on_backward = on_backward
        self.done = False


def join(joined: Joined) -> tuple[Tensor, weakref.ref[Joined]]:
    """The sum of the losses as a scalar whose backward is ``on_backward``, and a reference that dies with its graph.

    The losses' own graphs hang on the `Joined`, not on the scalar: the host's backward ends here, and what it
    multiplied the scalar by (a loss scale, 1 / accumulation steps) arrives as the cotangent.
    """
    values = list(joined.losses.values())
    total = torch.stack([value.detach().reshape(()).to(values[0].device) for value in values]).sum()
    # an input that requires a gradient is what makes autograd call the backward at all
    anchor = torch.zeros((), device=total.device, dtype=total.dtype, requires_grad=True)
    scalar: Tensor = _Join.apply(anchor, total, joined)  # type: ignore[no-untyped-call]
    return scalar, weakref.ref(joined)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, total: Tensor, joined: Joined) -> Tensor:
        ctx.joined = joined
        return total + anchor

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, None]:
        joined: Joined = ctx.joined
        if joined.done:
            raise RuntimeError(
                "the scalar that join() returned was backpropagated a second time: call join() again for each backward"
            )
        joined.done = True
        losses, joined.losses = joined.losses, {}
        with torch.no_grad():
            joined.on_backward(losses, cotangents[0].detach())
        return None, None, None
