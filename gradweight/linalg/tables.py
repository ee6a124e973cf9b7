"""Tables: lists of integers on the device, in which kernels look up what to work on.

A launch makes its own. A recording (a CUDA graph) keeps the memory of those that were made while it was recorded:
before a replay the addresses in them are rewritten, in one copy, if the tensors have moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["RecordedTables", "recorded_tables", "to_device"]


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """The integers as a new tensor, without a host sync."""
    return _on_host(numbers, device).to(device, non_blocking=True)


def _on_host(numbers: Sequence[int], device: torch.device) -> Tensor:
    # pinned memory, because a copy from any other waits for what the device is doing
    return torch.tensor(numbers, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")


class RecordedTables:
    """The tables of one recording.

    Args:
        addresses: of the tensors that may lie elsewhere at a replay; 0 for one that does not exist. Two that are equal
            must be so at every replay.
        fixed: of tensors that stay where they are.
        constants: how many numbers the tables that stay as they are may have in all.
        device: where all of them lie.
    """

    def __init__(self, addresses: Sequence[int], fixed: Iterable[int], constants: int, device: torch.device) -> None:
        self._device = device
        self._fixed = [0, *fixed]
        self._place: dict[int, int] = {}
        for place, address in enumerate([*addresses, *self._fixed]):
            self._place.setdefault(address, place)
        self._place[0] = len(addresses)  # what does not exist is nobody's address
        # each is at most in one table of gradients to multiply and in one to add up, whatever the number of blocks
        self._memory = torch.empty(2 * len(addresses), dtype=torch.int64, device=device)
        # made before the recording: memory of its pool may be that of an earlier tensor, which a replay writes again
        self._constant_memory = torch.empty(constants, dtype=torch.int64, device=device)
        self._places: list[int] = []
        self._constants: list[int] = []
        self._written: Sequence[int] | None = None

    def know(self, tensors: Iterable[Tensor]) -> bool:
        """Whether the addresses of all of these can be in a table."""
        return all(tensor.data_ptr() in self._place for tensor in tensors)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Tables that this thread makes within are kept, and have their contents from the first `write` on."""
        before = _recorded.set(self)
        try:
            yield
        finally:
            _recorded.reset(before)

    def of_addresses(self, addresses: Sequence[int]) -> Tensor:
        """A table that is rewritten before a replay."""
        start, end = len(self._places), len(self._places) + len(addresses)
        if end > len(self._memory):
            raise RuntimeError(f"the tables of a recording have {len(self._memory)} entries; {end} were needed")
        self._places += [self._place[address] for address in addresses]
        return self._memory[start:end]

    def of_constants(self, numbers: Sequence[int]) -> Tensor:
        """A table that stays as it is."""
        start, end = len(self._constants), len(self._constants) + len(numbers)
        if end > len(self._constant_memory):
            raise RuntimeError(f"a recording has {len(self._constant_memory)} constants; {end} were needed")
        self._constants += numbers
        return self._constant_memory[start:end]

    def end_recording(self) -> None:
        """Write the tables that stay as they are."""
        self._constant_memory[: len(self._constants)].copy_(_on_host(self._constants, self._device), non_blocking=True)

    def write(self, addresses: Sequence[int]) -> None:
        """Write where the tensors lie now, in the order of the constructor, unless it is what was written last."""
        if addresses == self._written or not self._places:
            return
        together = [*addresses, *self._fixed]
        table = _on_host([together[place] for place in self._places], self._device)
        self._memory[: len(self._places)].copy_(table, non_blocking=True)
        self._written = addresses


_recorded: ContextVar[RecordedTables | None] = ContextVar("recorded tables", default=None)


def recorded_tables() -> RecordedTables | None:
    """Those of the recording that this thread is making; None if it makes none."""
    return _recorded.get()
