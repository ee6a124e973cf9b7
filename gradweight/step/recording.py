"""Recording: one combination, recorded with places of its own for what it reads and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils import _pytree

from ..combination import Combination
from ..gradients.accumulation import AccumulatedGradients
from ..linalg.kernels import chunk_numbers, kernel_supports
from ..linalg.tables import RecordedTables
from ..rule import State
from .combiner import Combiner
from .combiner_input import CombinerInput

__all__ = ["Graph", "Recording"]


class Graph(Protocol):
    """Launches that are recorded once and replayed."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record what ``function`` launches, or raise."""

    def replay(self) -> None:
        """Launch it again, on the same memory."""


class Recording:
    """A combination that can be recorded once, and replayed with other gradients, losses and signals.

    Of gradients and direction, a kernel finds each by its address, in a table that is rewritten before a replay. What
    anything else reads or writes is copied, from and to tensors of the recording.

    Args:
        combiner: what to record.
        given: what to call it with.
    """

    def __init__(self, combiner: Combiner, given: CombinerInput) -> None:
        self._combiner = combiner
        self._given = given
        self._tensors = given.tensors()
        rows = given.accumulated.rows
        columns = [[t for t in column if t is not None] for column in zip(given.out, *rows, strict=True)]
        by_kernel = [not column or kernel_supports(column, len(rows)) for column in columns]
        self._multiplied = by_kernel * (len(rows) + 1)
        reads_entries = combiner.reads_entries
        self._copied = [
            t is not None and (reads_entries or not by_kernel)
            for t, by_kernel in zip(self._tensors, self._multiplied, strict=True)
        ]

    @property
    def copied_elements(self) -> int:
        """How many elements are copied for a replay, of gradients and direction."""
        return sum(t.numel() for t, copied in zip(self._tensors, self._copied, strict=True) if copied and t is not None)

    def record(self, graph: Graph, addresses: Sequence[int]) -> None:
        """Record it.

        Args:
            graph: what records.
            addresses: of all gradients, row by row, and of ``out``; 0 for what does not exist.

        Raises:
            Exception: it cannot be recorded. Nothing has been written.
        """
        accumulated = self._given.accumulated
        device = accumulated.losses.device
        own = [
            torch.empty_like(t) if copied and t is not None else t
            for t, copied in zip(self._tensors, self._copied, strict=True)
        ]
        per_row = len(accumulated.params)
        *rows, out = [own[start : start + per_row] for start in range(0, len(own), per_row)]
        places = [place for place, copied in enumerate(self._copied) if copied]
        first_of_out = len(own) - per_row
        self._read = [place for place in places if place < first_of_out]
        self._write = [place for place in places if place >= first_of_out]
        self._own: dict[int, Tensor] = {place: own[place] for place in places}  # type: ignore[misc]

        values = _values(accumulated)
        self._values = torch.empty(sum(map(Tensor.numel, values)), dtype=accumulated.losses.dtype, device=device)
        static = _with_values(accumulated, torch.split(self._values, [value.numel() for value in values]))

        # the same kernels as ever, none that would have to be compiled now
        fixed = [tensor.data_ptr() for place, tensor in self._own.items() if self._multiplied[place]]
        # a tensor is at most once among the gradients to multiply, and once among those to add up
        chunks = 2 * sum(chunk_numbers(t.numel()) for t in out if t is not None)
        self._tables = RecordedTables(addresses, fixed, chunks, device)
        with self._tables.recording():
            given = replace(self._given, accumulated=replace(static, rows=rows), out=out)
            graph.capture(lambda: self._pack(self._combiner(given)))
        self._tables.end_recording()
        self._graph = graph
        del self._tensors, self._given  # the gradients of this step

    def _pack(self, returned: tuple[Combination, State]) -> None:
        """Lay all tensors of one dtype into one, so that a clone of it outlives the next replay."""
        leaves, self._structure = _pytree.tree_flatten(returned)
        by_dtype: dict[torch.dtype, list[int]] = {}
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                by_dtype.setdefault(leaf.dtype, []).append(place)
        self._shapes = [leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._returned = [
            (torch.cat([leaves[place].detach().reshape(-1) for place in places]), places)
            for places in by_dtype.values()
        ]

    def replay(
        self, accumulated: AccumulatedGradients, tensors: Sequence[Tensor | None], addresses: Sequence[int]
    ) -> tuple[Combination, State]:
        """The combination of these gradients, all like those that it was recorded with."""
        self._tables.write(addresses)
        values = _values(accumulated)
        if len(values) == 1:
            self._values.copy_(values[0])
        else:
            torch.cat([value.reshape(-1) for value in values], out=self._values)
        if self._read:
            torch._foreach_copy_([self._own[i] for i in self._read], [tensors[i] for i in self._read])  # type: ignore[misc]
        self._graph.replay()
        if self._write:
            torch._foreach_copy_([tensors[i] for i in self._write], [self._own[i] for i in self._write])  # type: ignore[misc]
        leaves = list(self._shapes)
        for flat, places in self._returned:
            shapes = [self._shapes[place] for place in places]
            for place, shape, piece in zip(
                places, shapes, torch.split(flat.clone(), [shape.numel() for shape in shapes]), strict=True
            ):
                leaves[place] = piece if len(shape) == 1 else piece.view(shape)
        returned: tuple[Combination, State] = _pytree.tree_unflatten(leaves, self._structure)
        return returned


def _values(accumulated: AccumulatedGradients) -> list[Tensor]:
    """What comes from the losses, not from their gradients."""
    values = [accumulated.losses, *accumulated.signals.values()]
    return values if accumulated.scale is None else [*values, accumulated.scale]


def _with_values(accumulated: AccumulatedGradients, values: Sequence[Tensor]) -> AccumulatedGradients:
    """The same with others in their place, 1-D, in that order."""
    like = _values(accumulated)
    losses, *rest = (value.view(one.shape) for value, one in zip(values, like, strict=True))
    signals = dict(zip(accumulated.signals, rest, strict=False))
    return replace(accumulated, losses=losses, signals=signals, scale=None if accumulated.scale is None else rest[-1])
