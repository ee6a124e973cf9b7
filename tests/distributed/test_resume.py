"""Checkpoints: saved by two processes, resumed by four, and by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule
from gradweight.rules import GradDrop, NormBalance, PINNAnnealing

from .pool import Pool
from .problems import Net, distance, losses_of, network, world

RULES: dict[str, Rule] = {"PINNAnnealing": PINNAnnealing("a"), "GradDrop": GradDrop(), "NormBalance": NormBalance()}
SAMPLES = 8


def trained() -> Net:
    net = network()
    # torch asks a checkpoint for a state of every parameter that could have one, had it ever had a gradient
    net.unused.requires_grad_(False)
    return net


def start(rule: str, kind: str) -> tuple[Net, MultiObjectiveGradient]:
    net = trained()
    if kind == "sharded":
        fully_shard(net.trunk)
        fully_shard(net)
    group = world() if kind in ("all", "scatter") else None
    opt = MultiObjectiveGradient(
        torch.optim.Adam(net.named_parameters(), lr=0.01),
        RULES[rule],
        process_group=group,
        reduce="scatter" if kind == "scatter" else "all",
    )
    return net, opt


def train(net: Net, opt: MultiObjectiveGradient, steps: range, whole: bool = False) -> None:
    """On this process's share of each batch, or on the whole of it."""
    for i in steps:
        x: Tensor = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        if distributed.is_initialized() and not whole:
            x = x.chunk(distributed.get_world_size())[distributed.get_rank()]
        opt.zero_grad()
        opt.backward(losses_of(net, x))
        opt.step()


def save(folder: str, rule: str, kind: str) -> None:
    net, opt = start(rule, kind)
    train(net, opt, range(3))
    model, optim = get_state_dict(net, opt)
    dcp.save({"model": model, "optim": optim}, checkpoint_id=folder)


def resume(folder: str, rule: str, kind: str) -> float:
    """How far a resumed run is from one process that was never interrupted."""
    net, opt = start(rule, kind)
    model, optim = get_state_dict(net, opt)
    dcp.load({"model": model, "optim": optim}, checkpoint_id=folder)
    set_state_dict(net, opt, model_state_dict=model, optim_state_dict=optim)
    train(net, opt, range(3, 6))
    return distance(net, uninterrupted(rule))


def uninterrupted(rule: str) -> Net:
    net = trained()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.named_parameters(), lr=0.01), RULES[rule], process_group=False)
    train(net, opt, range(6), whole=True)
    return net


@pytest.mark.parametrize("kind", ["all", "scatter", "sharded"])
@pytest.mark.parametrize("rule", RULES)
def test_two_then_four_then_one(pair: Pool, four: Pool, tmp_path: Path, rule: str, kind: str) -> None:
    folder = str(tmp_path / "checkpoint")
    pair.run(save, folder, rule, kind)
    # Adam divides by the root of small second moments, which magnifies the order of sums
    assert max(four.run(resume, folder, rule, kind)) < 1e-9
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        assert resume(folder, rule, "alone") < 1e-9
