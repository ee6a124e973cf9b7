"""Averages of gradients are saved with the optimizer's state, and a run goes on from them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import MConFIG, MoCo

from ..rules.averaged_training import NAMES, batch, losses_of, network, parameters, wrapped
from .averaging import every_rule


def by_state_dict(net: nn.Module, opt: Any, make: Callable[[nn.Module], Any]) -> tuple[nn.Module, Any]:
    file = io.BytesIO()
    torch.save((net.state_dict(), opt.state_dict()), file)
    file.seek(0)
    model, optim = torch.load(file, weights_only=True)
    net = network()
    net.load_state_dict(model)
    opt = make(net)
    opt.load_state_dict(optim)
    return net, opt


def by_pickle(net: nn.Module, opt: Any, make: Any) -> tuple[nn.Module, Any]:
    found: tuple[nn.Module, Any] = pickle.loads(pickle.dumps((net, opt)))
    return found


def by_deepcopy(net: nn.Module, opt: Any, make: Any) -> tuple[nn.Module, Any]:
    return copy.deepcopy((net, opt))


@every_rule
@pytest.mark.parametrize("resume", [by_state_dict, by_pickle, by_deepcopy])
def test_a_resumed_run_goes_on_bit_for_bit(rule: Any, resume: Any) -> None:
    def make(net: nn.Module) -> MultiObjectiveGradient:
        return MultiObjectiveGradient(torch.optim.Adam(net.named_parameters(), lr=0.05), rule)

    def train(net: nn.Module, opt: MultiObjectiveGradient, steps: range) -> None:
        for i in steps:
            opt.zero_grad()
            opt.backward(losses_of(net, batch(i)), due=NAMES[i % 3] if isinstance(rule, MConFIG) else None)
            opt.step()

    net = network()
    opt = make(net)
    train(net, opt, range(4))
    again, resumed = resume(net, opt, make)
    train(again, resumed, range(4, 8))
    without, forgetful = resume(net, opt, make)
    for state in forgetful.state.values():
        for key in [key for key in state if key.startswith("average")]:
            state[key].zero_()
    train(without, forgetful, range(4, 8))
    train(net, opt, range(4, 8))
    assert np.array_equal(parameters(again), parameters(net))
    assert not np.array_equal(parameters(without), parameters(net))  # the test would notice if they were lost


def test_a_checkpoint_loads_into_the_bare_base_and_steps() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), MoCo())
    opt.backward(losses_of(net, batch(1)))
    opt.step()
    base = torch.optim.Adam(net.parameters())
    base.load_state_dict(opt.state_dict())
    base.step()


def test_a_state_without_its_averages_is_an_error_that_says_what_to_do() -> None:
    net = network()
    opt = wrapped(MoCo(), net)
    opt.backward(losses_of(net, batch(1)))
    opt.step()
    lost = opt.state_dict()
    lost["state"] = {}
    fresh = wrapped(MoCo(), net)
    fresh.load_state_dict(lost)
    before = parameters(net)
    with pytest.raises(
        RuntimeError, match=r"state of MoCo for the losses \['a', 'b', 'c'\] is there, .* take one step"
    ):
        fresh.backward(losses_of(net, batch(2)))
    assert np.array_equal(parameters(net), before)


def test_an_optimizer_that_makes_its_state_later_still_does() -> None:
    """Adam looks whether there is any: a parameter that is frozen for the first step must have none."""
    net = network()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), MConFIG())
    losses = losses_of(net, batch(1))
    opt.backward(losses)
    net[0].weight.grad = None  # type: ignore[index,union-attr]
    opt.step()
    opt.zero_grad()
    opt.backward(losses_of(net, batch(2)))
    opt.step()
    assert "exp_avg" in opt.state[net[0].weight]  # type: ignore[index]
