"""Replay: the combination as one CUDA graph, recorded in the middle of training and replayed from then on.

The host takes 10 to 25 us to launch anything, and a combination is 30 to 500 launches: Gram matrix, rule, weighted sum.
In a step of a small network that is what costs. Replayed, it is one launch. `Combiner` is what is recorded, as it is.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..combination import Combination
from ..distributed.sums import ReplicatedSums, RowSums
from ..linalg.host_access import is_captured, is_eager
from ..linalg.kernels import current_stream
from ..rule import State
from .combiner import Combiner
from .combiner_input import CombinerInput
from .cuda_graph import CudaGraph
from .recording import Graph, Recording

__all__ = ["GRAPHS", "KEPT", "MOST_COPIED", "Replay"]

GRAPHS: dict[str, Callable[[torch.device], Graph]] = {"cuda": CudaGraph}
"""What records, for each kind of device where anything does."""

KEPT = 8
"""For how many kinds of steps a recording is kept, or that there was one; those that came last."""

MOST_COPIED = 2**22
"""Elements that may be copied for a replay. With more of them a step is bound by memory, not by launches."""


_ORDINARY = {Tensor, type(None)}


class Replay:
    """A combiner whose work is recorded when a kind of step comes for the second time, and replayed from then on.

    The first time compiles what is to be compiled, and makes what is to be made. Steps are of one kind if they have the
    same losses and signals, the same blocks and parameters, gradients of the same layout, and the rule's state at the
    same place. Nothing is recorded where the combiner waits for other processes, nor in a step that is itself being
    captured, traced or transformed. If a recording fails, a warning says so and none is tried again.

    A copy, and one that was pickled, has no recordings yet.

    Args:
        combiner: what to record.
    """

    def __init__(self, combiner: Combiner) -> None:
        self.combiner = combiner
        # None: it came once; False: it is not to be recorded
        self._kinds: OrderedDict[tuple[Any, ...], Recording | bool | None] = OrderedDict()
        self._failed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Replay, (self.combiner,)

    def __call__(self, given: CombinerInput) -> tuple[Combination, State]:
        """As `Combiner.__call__`."""
        tensors = given.tensors()
        if self._failed or not _is_recordable(given.accumulated.losses, tensors, given.sums):
            return self.combiner(given)
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        kind = _kind(given, tensors, addresses)
        if self._comes_for_the_first_time(kind):
            return self.combiner(given)
        recording = self._kinds[kind]
        if recording is None:
            recording = self._kinds[kind] = self._recorded(given, tensors, addresses)
        if not isinstance(recording, Recording):
            return self.combiner(given)
        return recording.replay(given.accumulated, tensors, addresses)

    def _comes_for_the_first_time(self, kind: tuple[Any, ...]) -> bool:
        if kind in self._kinds:
            self._kinds.move_to_end(kind)
            return False
        self._kinds[kind] = None
        if len(self._kinds) > KEPT:
            self._kinds.popitem(last=False)
        return True

    def _recorded(
        self, given: CombinerInput, tensors: Sequence[Tensor | None], addresses: Sequence[int]
    ) -> Recording | bool:
        """The recording of a step like this one; False if there is to be none."""
        device = given.accumulated.losses.device
        read = [*(value for _, value in _entries(given.saved)), *tensors]
        if any(isinstance(value, Tensor) and value.device != device for value in read):
            return False
        recording = Recording(self.combiner, given)
        if recording.copied_elements > MOST_COPIED:
            return False
        try:
            recording.record(GRAPHS[device.type](device), addresses)
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"{self.combiner.name} cannot be recorded as a CUDA graph, so its operations are launched one by one, "
                f"as with cuda_graphs=False: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return False
        return recording


def _is_recordable(losses: Tensor, tensors: Sequence[Tensor | None], sums: RowSums) -> bool:
    return (
        losses.device.type in GRAPHS
        and type(sums) is ReplicatedSums
        and is_eager(losses)
        and not is_captured(losses)
        and set(map(type, tensors)) <= _ORDINARY
    )


def _kind(given: CombinerInput, tensors: Sequence[Tensor | None], addresses: Sequence[int]) -> tuple[Any, ...]:
    """What must be as it was for a recording to be replayed. Gradients have the shape and dtype of their parameter."""
    accumulated, losses = given.accumulated, given.accumulated.losses
    first: dict[int, int] = {}
    return (
        accumulated.names,
        losses.dtype,
        current_stream(losses.device),
        tuple([(name, signal.shape) for name, signal in accumulated.signals.items()]),
        accumulated.scale is None,
        None if given.blocks is None else tuple(given.blocks),
        tuple([(p.shape, p.dtype, p.device) for p in accumulated.params]),
        tuple([None if t is None else (t.stride(), t.is_neg()) for t in tensors]),
        # which of them lie at one place, as where the direction is formed in the first row
        tuple([first.setdefault(address, place) for place, address in enumerate(addresses)]),
        tuple([(name, _place(value)) for name, value in _entries(given.saved)]),
    )


def _place(value: Any) -> Any:
    return (value.data_ptr(), value.shape, value.dtype) if isinstance(value, Tensor) else value


def _entries(state: State, *, nested: bool = False) -> Iterator[tuple[str, Any]]:
    """What a rule may read of the state: all but numbers outside of its own, by which weights are held."""
    for name, value in state.items():
        if isinstance(value, dict):
            yield name, len(value)
            yield from _entries(value, nested=True)
        elif nested or isinstance(value, Tensor):
            yield name, value
