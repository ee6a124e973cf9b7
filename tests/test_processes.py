"""Several processes: not supported yet, and said so, on every one of them, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector


def train(rank: int, rendezvous: str, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    net = nn.Linear(2, 1)
    x = torch.ones(3, 2)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    with pytest.raises(RuntimeError, match="2 processes are in the default process group"):
        opt.backward({"a": net(x).sum()})
    with pytest.raises(RuntimeError, match="pass process_group=False if every process"):
        opt.join({"a": net(x).sum()}).backward()
    assert net.weight.grad is None
    alone = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), process_group=False)
    alone.backward({"a": net(x).sum()})
    assert net.weight.grad is not None
    distributed.destroy_process_group()
    (Path(folder) / f"done {rank}").touch()


def test_two_processes(tmp_path: Path) -> None:
    running = multiprocessing.spawn(train, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2, join=False)
    # join returns whenever one of them has ended; a hang is a failure
    assert any(running.join(timeout=60) for _ in range(2))
    assert (tmp_path / "done 0").exists()
    assert (tmp_path / "done 1").exists()
