"""Join: one scalar for hosts that insist on calling ``.backward()`` themselves."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..gradients.losses import as_plain, check_losses
from ..gradients.missing_losses import RankLosses
from ..gradients.vector_losses import expanded
from ..torch_private import at_the_end_of_the_backward_pass, retains_graph
from .deferred import Deferred, check_outside_of_backward
from .due import Due, split_due

if TYPE_CHECKING:
    from .step import Step

__all__ = ["join", "total"]


def join(
    step: Step,
    losses: Mapping[str, Tensor],
    signals: Mapping[str, Tensor | float],
    shared: Tensor | Sequence[Tensor] | None,
    due: Due = None,
) -> Tensor:
    """A scalar whose backward is `Step.add`; the plain sum where grad mode is off or nothing is trained."""
    losses, names = split_due(as_plain(losses), due, step.settings.averager)
    if not (params := step.trained()):
        given = RankLosses.of(losses).here if isinstance(losses, Mapping) else losses
        return total(check_losses(given, with_graph=False), step.base.param_groups[0]["params"][0])
    communicator = step.communicator(params)
    if communicator.size == 1:  # else in the backward, for all processes alike
        step.settings.combiner.signals.check(signals, "join()")
    with_graph = torch.is_grad_enabled()
    with communicator.telling_errors() if with_graph and not step.local_only else nullcontext():
        losses = expanded(losses, params)  # type: ignore[assignment]
        here = communicator.losses_on_this_rank(losses)
        values = {} if here.none_here else check_losses(here.here, with_graph=with_graph)
    if not with_graph:
        return total(values, params[0])
    check_outside_of_backward("join()")
    waiting = step.waiting()
    if waiting is not None:
        raise RuntimeError(
            f"join() was called for {list(losses)} while {waiting}: put all losses of a step into one mapping, and "
            "call backward() on what join() returns, or zero_grad() if that step is to be left out"
        )

    def add(given: dict[str, Tensor], cotangent: Tensor, retain_graph: bool) -> None:
        step.add(
            dict.fromkeys(names) | given,  # type: ignore[arg-type]
            signals,
            cotangent,
            shared=shared,
            due=tuple(given) if names else None,
            retain_graph=retain_graph,
            joined=True,
            caller="join()",
        )

    scalar, step.deferred = JoinedLosses(dict(losses), add).scalar(total(values, params[0]))
    return scalar


class JoinedLosses(Deferred):
    """The losses of a `join`, until the host calls ``.backward()`` on its scalar.

    1. `scalar` makes the scalar. The losses' own graphs hang on this object, not on the scalar: the host's backward
       pass ends here.
    2. The host multiplies the scalar by a loss scale, by 1 / accumulation steps, or by nothing, and goes backward.
    3. A hook of the scalar queues `_check_reached` for the end of the host's backward pass.
    4. The scalar's backward calls `run` with the cotangent, which holds the host's factor: the losses' own backward
       passes run, and the direction is added to what lies in ``.grad``.
    5. At the end of the host's backward pass the check runs: the scalar was reached.

    Args:
        losses: name -> loss, with their graphs; None for one that another process has.
        backward: called with the losses, the cotangent and whether to keep the graphs; writes ``.grad``.
    """

    def __init__(
        self,
        losses: dict[str, Tensor],
        backward: Callable[[dict[str, Tensor], Tensor, bool], object],
    ) -> None:
        self.losses = losses
        self.backward = backward

    remedy = "call backward() on it, without inputs=, or zero_grad() if that step is to be left out"

    def __str__(self) -> str:
        return f"the scalar that join() returned for {list(self.losses)} still waits for its backward"

    def scalar(self, value: Tensor) -> tuple[Tensor, weakref.ref[Deferred]]:
        """``value`` as a scalar whose backward is `run`, and a reference to this object that dies with its graph."""
        # an input that requires a gradient is what makes autograd call the backward at all
        anchor = torch.zeros((), device=value.device, dtype=value.dtype, requires_grad=True)
        scalar: Tensor = _Scalar.apply(anchor, value, self)  # type: ignore[no-untyped-call]
        # a hook of the scalar is called even where backward(inputs=...) leaves out all that lies behind it
        scalar.register_hook(lambda _: at_the_end_of_the_backward_pass(self._check_reached))  # type: ignore[no-untyped-call]
        return scalar, weakref.ref(self)

    def run(self, cotangent: Tensor) -> None:
        """The backward passes of the losses, times the cotangent."""
        if self.done:
            raise RuntimeError(
                "the scalar that join() returned was backpropagated a second time: call join() again for each backward"
            )
        self.done = True
        losses, self.losses = self.losses, {}
        retain_graph = retains_graph()
        with torch.no_grad():
            self.backward(losses, cotangent.detach(), retain_graph)

    def _check_reached(self) -> None:
        if not self.done:
            raise RuntimeError(
                "the scalar that join() returned was differentiated with inputs=, which keeps autograd from its "
                "losses: call backward() without inputs; the gradients are those of the optimizer's parameters that "
                "require one"
            )


def total(losses: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The sum of the losses, without a graph, on the device of the first, or 0 on that of ``like``."""
    values = [value.detach().reshape(()) for value in losses.values()] or [like.new_zeros(())]
    return torch.stack([value.to(values[0].device) for value in values]).sum()


class _Scalar(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor, deferred: JoinedLosses) -> Tensor:
        ctx.deferred = deferred
        return value + anchor

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, None]:
        ctx.deferred.run(cotangents[0])
        return None, None, None
