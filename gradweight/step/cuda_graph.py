"""CudaGraph: launches that are recorded in the middle of training, and cleaned up after if they cannot be."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from ..torch_private import end_allocation

__all__ = ["CudaGraph"]


class CudaGraph:
    """What a function launches on a device, recorded once and replayed.

    Unlike `torch.cuda.graph` it neither waits for the device nor empties the allocator's cache: the training that goes
    on around it would pay for both. Launches of other threads are none of its business.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, function: Callable[[], None]) -> None:
        """Record what ``function`` launches; none of it is done.

        Raises:
            Exception: what the function raises, for example because it reads a value, for which it would have to wait.
        """
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(_apart_from(torch.cuda.current_stream(self._device))), _no_garbage_collection():
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                function()
                self._graph.capture_end()
            except BaseException:
                self._abort(pool)
                raise

    def replay(self) -> None:
        """Launch what was recorded, on the current stream."""
        self._graph.replay()

    def _abort(self, pool: tuple[int, int]) -> None:
        """Undo what a capture that fails leaves behind: torch would go on as if it were still under way."""
        with suppress(RuntimeError):
            self._graph.capture_end()
        end_allocation(self._device.index, pool)
        with suppress(RuntimeError, AttributeError):
            # the generator refuses to be used outside of the graph; a copy of its state does not know of it
            generator = torch.cuda.default_generators[self._device.index]
            generator.graphsafe_set_state(generator.clone_state())


@functools.cache
def _apart_from(stream: torch.cuda.Stream) -> torch.cuda.Stream:
    # one for each: cuBLAS keeps a workspace for every stream that it was called on, and graphs that are replayed on
    # different streams at a time must not share it
    return torch.cuda.Stream(stream.device)  # type: ignore[no-untyped-call]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # what is collected may be an event or a graph, and destroying one is no part of a recording
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
