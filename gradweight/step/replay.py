"""Replay: a combination as one CUDA graph, recorded once and replayed from then on.

A small network's step is bound by the host, which takes 10 to 25 us to launch anything, and a combination is 30 to 500
launches: Gram matrix, rule, weighted sum. Replayed, it is one. `Combiner` stays what it is, and is called as it is while
the graph is recorded; what differs from step to step reaches the recording so:

- gradients and direction by their addresses, which the kernels look up in tables (`linalg.tables`), rewritten if a tensor
  has moved. What the kernels do not read (complex numbers, gradients of several layouts, rules that act on coordinates
  or need statistics) is copied into tensors of the recording first;
- losses, signals and scale in one tensor of the recording;
- the rule's state in the tensors where `rule_state.keep` leaves it.

What comes out is copied once more, so that it outlives the next replay.
"""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from ..combination import Combination
from ..distributed.sums import ReplicatedSums, RowSums
from ..gradients.accumulation import AccumulatedGradients
from ..linalg.host_access import is_captured, is_eager
from ..linalg.kernels import current_stream, kernel_supports
from ..linalg.rows import Row
from ..linalg.tables import RecordedTables
from ..rule import State
from .combiner import Combiner

__all__ = ["GRAPHS", "Combine", "Graph", "Replay"]

Combine: TypeAlias = Callable[
    [AccumulatedGradients, "Sequence[str | None] | None", State, "Sequence[Tensor | None]", RowSums],
    tuple[Combination, State],
]
"""What `Combiner` does when it is called, and `Replay` as well."""

KEPT = 8
"""For how many kinds of steps (sets of losses, say) there are recordings at a time."""

STAGED = 2**22
"""How many elements of gradients and direction are copied for a replay. With more, memory is what costs."""


class Graph(Protocol):
    """What is recorded once and replayed."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record what ``function`` launches, doing nothing of it. If it raises, or cannot be recorded, so does this."""

    def replay(self) -> None:
        """Launch what was recorded, on the current stream."""


class Replay:
    """What the combiner does, replayed from the third time on that a step of the same kind comes.

    The first is taken as ever, which compiles what is to be compiled; the second is recorded. Steps are of one kind if
    they have the same losses and signals, blocks and parameters, gradients of the same layout and the rule's state in
    the same place. Where nothing can be recorded (no CUDA, shards of a parameter on several processes, a step that is
    itself being captured), every step is taken as ever; so it is, after a warning, if recording fails.

    A copy of it, or one that was pickled, records anew.

    Args:
        combiner: what to record.
    """

    def __init__(self, combiner: Combiner) -> None:
        self.combiner = combiner
        self._forget()

    def _forget(self) -> None:
        self._recordings: OrderedDict[tuple[Any, ...], _Recording | None] = OrderedDict()
        self._graphs: dict[torch.device, Callable[[], Graph]] = {}
        self._fails = False

    def __getstate__(self) -> dict[str, Any]:
        return {"combiner": self.combiner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.combiner = state["combiner"]
        self._forget()

    def __call__(
        self,
        accumulated: AccumulatedGradients,
        blocks: Sequence[str | None] | None,
        saved: State,
        out: Sequence[Tensor | None],
        sums: RowSums,
    ) -> tuple[Combination, State]:
        """As `Combiner.__call__`."""
        tensors = [tensor for row in (*accumulated.rows, out) for tensor in row]
        if self._fails or not _can_be_replayed(tensors, accumulated.losses, sums):
            return self.combiner(accumulated, blocks, saved, out, sums)
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        kind = _kind(accumulated, blocks, saved, tensors, addresses)
        recording = self._recordings.get(kind, _NEW)
        if recording is _NEW:
            self._recordings[kind] = None
            if len(self._recordings) > KEPT:
                self._recordings.popitem(last=False)
            return self.combiner(accumulated, blocks, saved, out, sums)
        self._recordings.move_to_end(kind)
        if recording is None:
            try:
                recording = self._record(accumulated, blocks, saved, out, sums, addresses)
            except Exception as error:
                self._recordings.clear()
                self._fails = True
                warnings.warn(
                    f"{self.combiner.name} cannot be recorded as a CUDA graph, so its steps are launched operation by "
                    f"operation, as with cuda_graphs=False: {type(error).__name__}: {error}",
                    stacklevel=2,
                )
                return self.combiner(accumulated, blocks, saved, out, sums)
            self._recordings[kind] = recording
        return recording.replay(accumulated, tensors, addresses)
