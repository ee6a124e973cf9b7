"""Several base optimizers under one rule: each steps its own parameters, and hosts see one optimizer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer, lr_scheduler

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from ..hosts.problem import SlowNorms, assert_same, batches, bisector, losses, network
from ..optimizers import assert_resumes_bit_for_bit, train


def pair(net: nn.Module) -> list[Optimizer]:
    """Muon for matrices, which are all that it takes, AdamW for the rest."""
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.9),
        torch.optim.AdamW([p for p in net.parameters() if p.ndim != 2], lr=0.05),
    ]


def wrap(net: nn.Module, **options: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(pair(net), AngleBisector(), **options)


def by_hand(after: Callable[[list[Optimizer]], Callable[[], object]] = lambda _: lambda: None) -> dict[str, Tensor]:
    """One Gram matrix over all parameters, and a step of each optimizer: nothing of the package is used."""
    net = network()
    params = list(net.parameters())
    optimizers = pair(net)
    finish = after(optimizers)
    for x, y in batches():
        values = losses(net, x, y)
        rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in values.values()]
        for p, g in zip(params, bisector(rows), strict=True):
            p.grad = g
        for optimizer in optimizers:
            optimizer.step()
        finish()
    return net.state_dict()


def test_one_combination_and_a_step_of_each() -> None:
    net = network()
    train(net, wrap(net), slice(None))
    # Muon's Newton-Schulz iteration works in bfloat16, and rounds what differs in the last bit of float32
    assert_same(net.state_dict(), by_hand(), tolerance=2e-3)


@pytest.mark.parametrize("attached", ["to all", "to each"])
def test_schedulers(attached: str) -> None:
    def of_each(optimizers: list[Optimizer]) -> Callable[[], object]:
        schedules = [lr_scheduler.StepLR(optimizer, 2, 0.5) for optimizer in optimizers]
        return lambda: [schedule.step() for schedule in schedules]

    net = network()
    opt = wrap(net)
    after = of_each([opt] if attached == "to all" else opt.base.optimizers)
    train(net, opt, slice(None), after)
    assert [group["lr"] for group in opt.param_groups] == [0.02 / 64, 0.05 / 64]
    assert_same(net.state_dict(), by_hand(of_each), tolerance=2e-3)  # as above


@pytest.mark.parametrize("checkpoint", ["plain", "distributed"])
def test_a_resumed_run_goes_on_bit_for_bit(checkpoint: str) -> None:
    def wrapped(net: nn.Module) -> MultiObjectiveGradient:
        return MultiObjectiveGradient(pair(net), SlowNorms())

    if checkpoint == "plain":
        assert_resumes_bit_for_bit(network, wrapped, lambda net, opt, a, b: train(net, opt, slice(a, b)), 5, 9)
        return
    net = network()
    opt = wrapped(net)
    train(net, opt, slice(5))
    saved = copy.deepcopy((net.state_dict(), get_optimizer_state_dict(net, opt)))
    train(net, opt, slice(5, 9))
    again = network()
    again.load_state_dict(saved[0])
    resumed = wrapped(again)
    set_optimizer_state_dict(again, resumed, saved[1])
    train(again, resumed, slice(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_what_is_loaded_is_in_the_bare_optimizers() -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(3))
    fresh = network()
    muon, adamw = pair(fresh)
    MultiObjectiveGradient([muon, adamw], AngleBisector()).load_state_dict(opt.state_dict())
    for bare, trained in zip((muon, adamw), opt.base.optimizers, strict=True):
        found, expected = bare.state_dict(), trained.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        assert found["state"].keys() == expected["state"].keys() != set()
        for i, state in expected["state"].items():
            assert all(torch.equal(found["state"][i][key], value) for key, value in state.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_trains_as_the_original(copied: Callable[[Any], Any]) -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(2))
    again, other = copied((net, opt))
    for each in ((net, opt), (again, other)):
        train(*each, slice(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_an_overflow_skips_the_step_of_all() -> None:
    net = network()
    opt = wrap(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = copy.deepcopy(net.state_dict())
    for factor, moved in ((torch.inf, False), (1.0, True)):
        opt.zero_grad()
        values = losses(net, *batches()[0])
        opt.backward(values | {"size": factor * values["size"]}, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        assert [not torch.equal(before[name], p) for name, p in net.state_dict().items()] == [moved] * len(before)
    opt.zero_grad()
    opt.backward(losses(net, *batches()[0]), scaler=scaler)
    scaler.unscale_(opt)
    scaler.unscale_(opt.base.optimizers[1])
    with pytest.raises(RuntimeError, match="base optimizer as well as the wrapper"):
        opt.step()


def test_a_closure_is_evaluated_once() -> None:
    net = network()
    opt = wrap(net)
    calls = []

    def closure() -> float:
        calls.append(1)
        opt.zero_grad()
        return float(opt.backward(losses(net, *batches()[0])).losses.sum())

    assert opt.step(closure) > 0
    assert len(calls) == 1
    direct = network()
    train(direct, wrap(direct), slice(1))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), direct.parameters(), strict=True))


def test_states_are_read_and_written_where_they_belong() -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(1))
    assert len(opt.state) == len(list(opt.state)) == 4
    for p, state in opt.state.items():  # as frameworks move states to a device
        opt.state[p] = {key: value.clone() for key, value in state.items()}
    muon, adamw = opt.base.optimizers
    assert [len(muon.state), len(adamw.state)] == [2, 2]
    stranger = torch.ones(1)
    assert stranger not in opt.state
    with pytest.raises(KeyError):
        opt.state[stranger] = {}


def test_hooks_run_once_for_each_optimizer_and_once_for_all() -> None:
    net = network()
    opt = wrap(net)
    ran = []
    for name, optimizer in zip("wmab", [opt, *opt.base.optimizers, opt.base], strict=True):
        optimizer.register_step_post_hook(lambda *_, name=name: ran.append(name))
    train(net, opt, slice(1))
    assert ran == ["m", "a", "b", "w"]


def test_bases_that_cannot_be_one() -> None:
    net = network()
    muon, adamw = pair(net)
    with pytest.raises(ValueError, match=r"shape \(8, 3\) is in Muon and in SGD"):
        MultiObjectiveGradient([muon, adamw, torch.optim.SGD(net.parameters())], AngleBisector())
    with pytest.raises(ValueError, match="got an empty one"):
        MultiObjectiveGradient([], AngleBisector())
    with pytest.raises(TypeError, match="got LBFGS"):
        MultiObjectiveGradient([muon, torch.optim.LBFGS([nn.Parameter(torch.ones(1))])], AngleBisector())
    opt = MultiObjectiveGradient([muon, adamw], AngleBisector())
    with pytest.raises(TypeError, match="call it on that base"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    adamw.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(opt.param_groups) == 3
