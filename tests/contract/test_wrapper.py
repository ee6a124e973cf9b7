"""What is attached to the wrapper, hooks and schedulers, acts as on the base optimizer."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from gradweight import MultiObjectiveGradient
from gradweight.rules import Sum

from ..test_optimizer import BASES, assert_equal, batch, losses, network, twins

# ---- hooks


def test_every_hook_fires_once():
    (net, opt), _ = twins(BASES["SGD"])
    fired = []
    opt.register_step_pre_hook(lambda optimizer, args, kwargs: fired.append(("step pre", optimizer)))
    opt.register_step_post_hook(lambda optimizer, args, kwargs: fired.append(("step post", optimizer)))
    opt.register_state_dict_pre_hook(lambda optimizer: fired.append(("save pre", optimizer)))
    opt.register_state_dict_post_hook(lambda optimizer, state: fired.append(("save post", optimizer)))
    opt.register_load_state_dict_pre_hook(lambda optimizer, state: fired.append(("load pre", optimizer)))
    opt.register_load_state_dict_post_hook(lambda optimizer: fired.append(("load post", optimizer)))
    opt.backward(losses(net, *batch()))
    opt.step()
    opt.load_state_dict(opt.state_dict())
    names = ["step pre", "step post", "save pre", "save post", "load pre", "load post"]
    assert fired == [(name, opt) for name in names]


def test_hooks_that_replace_the_state_dict():
    (_, opt), _ = twins(BASES["SGD"])
    opt.register_state_dict_post_hook(lambda optimizer, state: state | {"mine": 1})
    state = opt.state_dict()
    assert state["mine"] == 1

    def remove(optimizer, state):
        state["param_groups"] = [group | {"lr": 7.0} for group in state["param_groups"]]
        return {name: value for name, value in state.items() if name != "mine"}

    opt.register_load_state_dict_pre_hook(remove)
    opt.load_state_dict(state)
    assert opt.param_groups[0]["lr"] == 7.0


def test_a_load_hook_that_changes_its_dict_leaves_the_caller_s_alone():
    (_, opt), (_, base) = twins(BASES["SGD"])
    for optimizer in (base, opt):
        state = optimizer.state_dict()
        optimizer.register_load_state_dict_pre_hook(lambda _, state: state.update(mine=1))
        optimizer.load_state_dict(state)
        assert "mine" not in state


# ---- schedulers

SCHEDULERS = {
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, step_size=2, gamma=0.5),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=20),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0, factor=0.5),
    "warmup": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, total_iters=2), lr_scheduler.CosineAnnealingLR(opt, 5)], [2]
    ),
}


def _train(net, optimizer, scheduler, data):
    for real, fake in data:
        optimizer.zero_grad()
        if isinstance(optimizer, MultiObjectiveGradient):
            optimizer.backward(losses(net, real, fake))
        else:
            sum(losses(net, real, fake).values()).backward()
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("attached", ["before", "after"])
def test_a_scheduler_on_the_wrapper(make, attached):
    """Attached before load_state_dict or after; warnings are errors here. The twin is the bare optimizer."""
    data = [batch() for _ in range(8)]
    rates, nets = [], []
    for wrap in (lambda base: MultiObjectiveGradient(base, Sum()), lambda base: base):
        torch.manual_seed(1)
        net = network()
        optimizer = wrap(BASES["Adam"](net.parameters()))
        scheduler = make(optimizer)
        _train(net, optimizer, scheduler, data[:4])
        saved = optimizer.state_dict(), scheduler.state_dict()

        resumed = wrap(BASES["Adam"](net.parameters()))
        if attached == "after":
            resumed.load_state_dict(saved[0])
        scheduler = make(resumed)
        resumed.load_state_dict(saved[0])  # again, where a new scheduler has set its first learning rate
        scheduler.load_state_dict(saved[1])
        _train(net, resumed, scheduler, data[4:])
        rates.append(resumed.param_groups[0]["lr"])
        nets.append(net)
    assert rates[0] == rates[1] != 0.01
    assert_equal(*nets)


def test_the_learning_rate_of_a_scheduler_reaches_the_step():
    w = nn.Parameter(torch.zeros(1))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=1.0), Sum())
    scheduler = lr_scheduler.StepLR(opt, step_size=1, gamma=0.1)
    for expected in (-1.0, -1.1, -1.11):
        opt.zero_grad()
        opt.backward({"a": w.sum()})
        opt.step()
        scheduler.step()
        assert w.item() == pytest.approx(expected, rel=1e-6)
        opt.load_state_dict(opt.state_dict())
