"""Join: one scalar for hosts that insist on calling ``.backward()`` themselves."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Joined", "join", "total"]


class Joined:
    """What waits inside the scalar until the host calls ``.backward()`` on it.

    Args:
        losses: name -> loss, with their graphs; None for one that another process has.
        value: what the scalar is to be.
        on_backward: called with the losses and the incoming cotangent.
        grads: what the ``.grad`` of the parameters are now; others must not change during the backward.
    """

    def __init__(
        self,
        losses: dict[str, Tensor],
        value: Tensor,
        on_backward: Callable[[dict[str, Tensor], Tensor], object],
        grads: Callable[[], list[Tensor | None]],
    ) -> None:
        self.losses = losses
        self.value = value
        self.on_backward = on_backward
        self.grads = grads
        self.before = _versions(grads())
        self.done = False


def join(joined: Joined) -> tuple[Tensor, weakref.ref[Joined]]:
    """The value as a scalar whose backward is ``on_backward``, and a reference that dies with its graph.

    The losses' own graphs hang on the `Joined`, not on the scalar: the host's backward ends here, and what it
    multiplied the scalar by (a loss scale, 1 / accumulation steps) arrives as the cotangent.
    """
    value = joined.value
    # an input that requires a gradient is what makes autograd call the backward at all
    anchor = torch.zeros((), device=value.device, dtype=value.dtype, requires_grad=True)
    scalar: Tensor = _Join.apply(anchor, value, joined)  # type: ignore[no-untyped-call]
    # a hook of the scalar is called even where backward(inputs=...) leaves out all that lies behind it
    scalar.register_hook(lambda _: _at_the_end(lambda: _check_reached(joined)))  # type: ignore[no-untyped-call]
    return scalar, weakref.ref(joined)


def total(losses: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The sum of the losses, without a graph, on the device of the first, or 0 on that of ``like``."""
    values = [value.detach().reshape(()) for value in losses.values()] or [like.new_zeros(())]
    return torch.stack([value.to(values[0].device) for value in values]).sum()


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
        _check_alone(joined.before, joined.grads())
        with torch.no_grad():
            joined.on_backward(losses, cotangents[0].detach())
        laid = _versions(joined.grads())
        _at_the_end(lambda: _check_alone(laid, joined.grads()))
        return None, None, None


def _at_the_end(check: Callable[[], None]) -> None:
    """Call ``check`` when the backward that is under way has done all else."""
    torch.autograd.Variable._execution_engine.queue_callback(check)


def _check_reached(joined: Joined) -> None:
    if not joined.done:
        raise RuntimeError(
            "the scalar that join() returned was differentiated with inputs=, which keeps autograd from its losses: "
            "call backward() without inputs; the gradients are those of the optimizer's parameters that require one"
        )


def _versions(grads: list[Tensor | None]) -> list[tuple[int, int] | None]:
    return [None if g is None else (id(g), g._version) for g in grads]


def _check_alone(before: list[tuple[int, int] | None], grads: list[Tensor | None]) -> None:
    """Raise if the walk that came here has also added gradients to ``.grad``: only one of the two would remain."""
    for then, g in zip(before, grads, strict=True):
        # None or zeros: a zero_grad() since join(). The device is asked only where something was written at all.
        if g is not None and then != (id(g), g._version) and bool(g.any()):
            raise RuntimeError(
                "the scalar that join() returned was added to another loss, whose gradients would get lost: put all "
                "terms into the mapping that join() is given"
            )
