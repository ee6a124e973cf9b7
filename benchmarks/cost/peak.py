"""Peak memory of a piece of code, as the allocator saw it: exact, and the same in every run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["peak_bytes"]


def peak_bytes(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """How many bytes above those held before ``function()`` were held at once while it ran.

    On a GPU torch's allocator keeps count. On a CPU the profiler lists every allocation and release, temporaries
    inside an operator included, except for releases of what was allocated before: run code twice within ``function``
    to have what replaces its own leftovers.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest
