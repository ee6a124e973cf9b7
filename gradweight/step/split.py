"""Split: the one loss of a host, by the tensors through which its gradient comes."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..contract.arguments import loss_scale
from ..contract.rule_check import needs_losses
from ..linalg.layout import is_dense
from ..torch_private import at_the_end_of_the_backward_pass, retains_graph, storage
from .deferred import Deferred, check_outside_of_backward

if TYPE_CHECKING:
    from .step import Step

__all__ = ["Tensors", "split_at"]

Tensors: TypeAlias = Mapping[str, Tensor | Sequence[Tensor] | None]


def split_at(step: Step, tensors: Tensors, signals: Mapping[str, Tensor | float], scaler: Any) -> dict[str, Any]:
    """Stand-ins for the tensors, at which the host's backward pass ends and `Step.add` begins.

    The tensors themselves where grad mode is off or nothing is trained.
    """
    params = step.trained()
    recorded = torch.is_grad_enabled() and bool(params)
    communicator = step.communicator(params) if recorded else None
    with nullcontext() if communicator is None or step.local_only else communicator.telling_errors():
        given = _checked(tensors, with_graph=recorded)
        if not recorded:
            return dict(tensors)
        check_outside_of_backward("split_at()")
        rule = step.settings.combiner.rule
        if needs_losses(rule):
            raise TypeError(
                "split_at() has gradients and no values of losses, because a host's sum does not tell its terms apart, "
                f"and {rule!r} goes by values: use a rule of the gradients, or backward() or join() with the losses"
            )
        scale = None if scaler is None else loss_scale(scaler, params[0].device)
        split = step.waiting()
        if split is None:
            split = SplitLoss(step)
        elif not isinstance(split, SplitLoss) or not given.keys().isdisjoint(split.tensors):
            raise RuntimeError(
                f"split_at() was called for {list(given)} while {split}: give each tensor of a step a name of its own, "
                "or call zero_grad() if that step is to be left out"
            )
    step.deferred = weakref.ref(split)
    split.signals |= signals
    if scaler is not None:
        split.scaler, split.scale = scaler, scale
    stand_ins = iter(split.cut(given))
    return {name: _like(tensors[name], [next(stand_ins) for _ in some]) for name, some in given.items()}


class SplitLoss(Deferred):
    """The tensors of `split_at`, until the host's backward pass has come to all of them.

    1. `cut` makes stand-ins, which share the values. The tensors' own graphs hang on this object: the host's backward
       pass ends at the stand-ins.
    2. The host computes its loss from these, multiplies it by what it likes, and goes backward.
    3. The backward of the stand-ins is called once the pass has been through all that was computed from those of one
       call. `reached` keeps their cotangents, c = dL/dt, and after the last call's it has the term ``<t, c>`` of each
       name differentiated, whose gradient is this name's part of that of L, and the direction written to ``.grad``.
    4. At the end of a backward pass that has come to some of the calls, and not to all, the check raises.

    Args:
        step: where the terms are added.
    """

    remedy = (
        "was the loss computed from the tensors that were given, in place of those that were returned? Call backward() "
        "on a loss of these, without inputs=, or zero_grad() if that step is to be left out"
    )

    def __init__(self, step: Step) -> None:
        self.step = step
        self.tensors: dict[str, list[Tensor]] = {}
        self.cotangents: dict[str, list[Tensor | None]] = {}
        self.signals: dict[str, Tensor | float] = {}
        self.scaler: Any = None
        self.scale: Tensor | None = None
        self.versions: list[tuple[Tensor, int]] = []

    def __del__(self) -> None:
        if not self.done:
            self.step.unreached = True

    def __str__(self) -> str:
        waiting = [name for name in self.tensors if name not in self.cotangents]
        return f"the tensors that split_at() returned for {waiting} still wait for a backward pass"

    def cut(self, tensors: dict[str, list[Tensor]]) -> tuple[Tensor, ...]:
        """A stand-in for each of the tensors."""
        self.tensors |= tensors
        self.versions += [(tensor, tensor._version) for some in tensors.values() for tensor in some]
        # an input that requires a gradient is what makes autograd call the backward at all
        stand_ins: tuple[Tensor, ...] = _StandIns.apply(torch.zeros((), requires_grad=True), self, tensors)  # type: ignore[no-untyped-call]
        return stand_ins

    def reached(self, names: Sequence[str], cotangents: Sequence[Tensor | None]) -> None:
        """A backward pass has come to the stand-ins of one call, with these cotangents."""
        rest = iter(cotangents)
        found = {name: [next(rest) for _ in self.tensors[name]] for name in names}
        unreached = [name for name, some in found.items() if some and all(c is None for c in some)]
        twice = self.done or not found.keys().isdisjoint(self.cotangents)
        self.cotangents |= found
        if not (twice or unreached) and self.cotangents.keys() < self.tensors.keys():
            at_the_end_of_the_backward_pass(self._check_all_reached)
            return
        self.done = True
        tensors, cotangents_of, versions = self.tensors, self.cotangents, self.versions
        self.tensors, self.versions = {name: [] for name in tensors}, []
        with self._telling_errors():
            if twice:
                raise RuntimeError(
                    f"a backward pass came a second time to the tensors that split_at() returned for {list(names)}: "
                    "call split_at() again for each backward pass; where one tensor is computed from another's "
                    "stand-in, give both to one call"
                )
            if unreached:
                raise RuntimeError(_unreached(unreached))
            if _changed_elsewhere(versions):
                raise RuntimeError(
                    "what split_at() returned was written to in place, and is a parameter or lies where the tensor of "
                    "another name lies, whose value that changed: write to a copy, tensor.clone()"
                )
        retain_graph, scale = retains_graph(), self.scale
        with torch.enable_grad():
            losses = {n: _term(some, cotangents_of[n], scale) if some else None for n, some in tensors.items()}
        with torch.no_grad():
            self.step.backward(losses, self.signals, self.scaler, retain_graph=retain_graph, caller="split_at()")  # type: ignore[arg-type]

    def _check_all_reached(self) -> None:
        if not self.done:
            self.done = True
            with self._telling_errors():
                raise RuntimeError(_unreached([name for name in self.tensors if name not in self.cotangents]))

    def _telling_errors(self) -> Any:
        step = self.step
        return nullcontext() if step.local_only else step.communicator(step.params()).telling_errors()


class _StandIns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, split: SplitLoss, tensors: dict[str, list[Tensor]]) -> tuple[Tensor, ...]:
        ctx.split, ctx.names = split, list(tensors)
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for some in tensors.values() for tensor in some)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[None, None, None]:
        ctx.split.reached(ctx.names, cotangents)
        return None, None, None


def _changed_elsewhere(tensors: Sequence[tuple[Tensor, int]]) -> bool:
    """Whether one of the tensors, each with its version before, was written to that is a leaf or overlaps another."""
    return any(
        tensor.is_leaf or any(_overlap(tensor, other) for j, (other, _) in enumerate(tensors) if j != i)
        for i, (tensor, version) in enumerate(tensors)
        if tensor._version != version
    )


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share entries, as far as their first and last ones tell."""
    (first, last), (begin, end) = _stretch(a), _stretch(b)
    return storage(a) == storage(b) and first <= end and begin <= last and (is_dense(a) or is_dense(b))


def _stretch(tensor: Tensor) -> tuple[int, int]:
    start = int(tensor.storage_offset())
    return start, start + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _term(tensors: list[Tensor], cotangents: list[Tensor | None], scale: Tensor | None) -> Tensor:
    """``sum <t, c / scale>``, whose gradient is the loss's part that comes through these tensors; its value is NaN."""
    parts: list[Tensor] = []
    for tensor, c in zip(tensors, cotangents, strict=True):
        if c is not None:
            # half precision has no room for what the scale was there to keep from underflowing
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            c = c.detach().to(dtype)
            part = (tensor.to(dtype) * (c if scale is None else c / scale.to(c))).sum()
            parts.append(part.to(parts[0]) if parts else part)
    term = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
    return term + torch.nan  # <t, c> is no loss, and nobody is to take it for one


def _checked(tensors: object, *, with_graph: bool) -> dict[str, list[Tensor]]:
    """The tensors of each name, none for None; an error that names what is wrong with them."""
    if not isinstance(tensors, Mapping):
        raise TypeError(f"split_at() needs a mapping name -> tensor, or several; got {type(tensors).__name__}")
    found: dict[str, list[Tensor]] = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"names of tensors must be str; got {name!r} of type {type(name).__name__}")
        some = [] if value is None else [value] if isinstance(value, Tensor) else value
        if not isinstance(some, list | tuple) or not (some or value is None):
            raise TypeError(f"split_at() needs a tensor, several or None for {name!r}; got {type(value).__name__}")
        for tensor in some:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(f"split_at() needs real floating-point tensors; got {got} for {name!r}")
            if with_graph and not tensor.requires_grad:
                raise ValueError(
                    f"the tensor {name!r} has no graph (requires_grad is False): it was detached, computed under "
                    "no_grad, or depends on no parameter: leave it out, or pass None for it"
                )
        found[name] = list(some)
    if not any(found.values()):
        raise ValueError(f"split_at() needs at least one tensor; got {dict.fromkeys(found)}")
    return found


def _like(given: Any, stand_ins: list[Tensor]) -> Any:
    """The stand-ins in the form in which the tensors were given."""
    if given is None:
        return None
    if isinstance(given, Tensor):
        return stand_ins[0]
    # a named tuple takes its fields one by one
    return type(given)(*stand_ins) if hasattr(given, "_fields") else type(given)(stand_ins)


def _unreached(names: list[str]) -> str:
    return (
        f"the backward pass did not come to the tensors that split_at() returned for {names}: compute the loss from "
        "these and not from those that were given, call backward() without inputs=, and leave out, or pass None for, "
        "what a loss does not depend on"
    )
