"""State that torch.distributed gathers, saves and shards, resumed from on one process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.optim import ZeroRedundancyOptimizer

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule
from gradweight.rules import AngleBisector

from ..hosts.problem import (
    LEARNING_RATE,
    SlowNorms,
    assert_same,
    batches,
    by_hand,
    halving,
    network,
)
from ..optimizers import BASE, BASES, RULE, train


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_resumes(
    rule: Rule,
    base: str,
    resume: Callable[[nn.Module, torch.optim.Optimizer, nn.Module, torch.optim.Optimizer], None],
    make: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> None:
    """A run whose state went through ``resume(net, opt, fresh_net, fresh_opt)`` goes on as if nothing had happened."""

    def fresh() -> tuple[nn.Module, MultiObjectiveGradient]:
        net = network()
        return net, MultiObjectiveGradient(BASES[base](net.parameters()) if make is None else make(net), rule)

    net, opt = fresh()
    train(net, opt, slice(6))
    net2, opt2 = fresh()
    resume(net, opt, net2, opt2)
    train(net2, opt2, slice(6, None))
    train(net, opt, slice(6, None))
    assert_same(net2.state_dict(), net.state_dict(), tolerance=0.0)
    if isinstance(rule, SlowNorms):
        for each in (opt, opt2):
            assert int(each.param_groups[0]["rule_state"]['state of SlowNorms for ["fit", "size"]']["steps"]) == len(
                batches()
            )


FLAT = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])


@FLAT
@RULE
@BASE
def test_dcp_state_dict_in_memory(base: str, rule: Rule, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        net2.load_state_dict(net.state_dict())
        # torch keeps the tensors that it is given
        saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=options))
        assert any("exp_avg" in key or "buffer" in key or "square" in key or key == "state" for key in saved)
        set_optimizer_state_dict(net2, opt2, saved, options=options)

    assert_resumes(rule, base, resume)


@FLAT
@RULE
@BASE
def test_dcp_state_dict_through_torch_save(base: str, rule: Rule, flat: bool, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        torch.save(get_state_dict(net, opt, options=options), tmp_path / "checkpoint.pt")
        model_state, optim_state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        set_state_dict(net2, opt2, model_state_dict=model_state, optim_state_dict=optim_state, options=options)

    assert_resumes(rule, base, resume)


@FLAT
@RULE
def test_dcp_save_and_load(rule: Rule, flat: bool, tmp_path: Path, one_process: None) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        model_state, optim_state = get_state_dict(net, opt, options=options)
        dcp.save({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path / "checkpoint")
        model_state, optim_state = get_state_dict(net2, opt2, options=options)
        dcp.load(template := {"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path / "checkpoint")
        set_state_dict(
            net2, opt2, model_state_dict=template["model"], optim_state_dict=template["optim"], options=options
        )

    assert_resumes(rule, "Adam", resume)


@RULE
def test_zero_redundancy_optimizer(rule: Rule, one_process: None) -> None:
    def make(net: nn.Module) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(net.parameters(), optimizer_class=torch.optim.Adam, lr=LEARNING_RATE)

    if isinstance(rule, AngleBisector):
        net = network()
        opt = MultiObjectiveGradient(make(net), rule)
        train(net, opt, slice(None), halving(opt).step)
        assert_same(net.state_dict(), by_hand(scheduler=halving))

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        opt.base.consolidate_state_dict()
        net2.load_state_dict(net.state_dict())
        opt2.load_state_dict(copy.deepcopy(opt.state_dict()))

    assert_resumes(rule, "", resume, make)
