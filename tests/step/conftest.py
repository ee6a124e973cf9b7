"""What records and replays, on a GPU and without one."""

from __future__ import annotations

import pytest

from gradweight.linalg import gram, kernels
from gradweight.linalg import weighted_sum as weighted_sum_module
from gradweight.step import combiner, cuda_graph, finite, replay

from .replaying import DEVICE, Graph


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are recorded."""
    made = []

    def counted(device):
        made.append(Graph(device) if DEVICE == "cpu" else Counted(device))
        return made[-1]

    class Counted(cuda_graph.CudaGraph):
        replays = 0

        def replay(self):
            self.replays += 1
            super().replay()

    monkeypatch.setitem(replay.GRAPHS, DEVICE, counted)
    if DEVICE == "cpu":  # as on a device: nothing is read back, and kernels do what there are kernels for
        kernels.DEVICES.add(DEVICE)
        kernels._kept_chunks.cache_clear()
        monkeypatch.setattr(kernels, "CHUNK", 64)
        monkeypatch.setattr(kernels, "_BLOCK", 32)
        monkeypatch.setattr(kernels, "_MANY_BLOCK", 32)
        monkeypatch.setattr(gram, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(combiner, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(finite, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
        monkeypatch.setitem(gram.CUTS, "cpu", gram.CUTS["cuda"])
    yield made
    if DEVICE == "cpu":
        kernels.DEVICES.discard(DEVICE)
        kernels._kept_chunks.cache_clear()
