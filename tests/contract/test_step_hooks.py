"""Hooks: on parameters, as the guide has them, on each loss's gradient, and on the direction around the step."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, Constant, Sum


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_tensor_hooks_on_parameters_see_single_losses(engine: str) -> None:
    p = nn.Parameter(torch.ones(2))
    seen: list[object] = []
    p.register_hook(lambda g: (seen.append(g.tolist()), g.clamp(max=1))[1])
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), Constant({"a": 2.0, "b": 4.0}), engine=engine)
    opt.backward({"a": 3 * p[0], "b": 5 * p[1]})
    assert seen == [[3, 0], [0, 5]]
    assert p.grad.tolist() == [2, 4]


def test_a_hook_before_the_step_sees_the_direction() -> None:
    p = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), Constant({"a": 2.0, "b": 4.0}))

    def clamp(*_: object) -> None:
        p.grad.clamp_(max=7)

    opt.register_step_pre_hook(clamp)
    opt.backward({"a": 3 * p[0], "b": 5 * p[1]})
    opt.step()
    assert p.tolist() == [-5, -6]


def test_hooks_on_every_optimizer_s_step_act_once() -> None:
    p = nn.Parameter(torch.ones(1))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), Sum())
    stepped: list[torch.optim.Optimizer] = []

    def halve(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for q in group["params"]:
                q.grad /= 2

    hooks = [
        register_optimizer_step_pre_hook(halve),
        register_optimizer_step_post_hook(lambda optimizer, *_: stepped.append(optimizer)),
    ]
    try:
        opt.backward({"a": 3 * p[0], "b": p[0]})
        opt.step()
    finally:
        for hook in hooks:
            hook.remove()
    assert p.tolist() == [-1]
    assert stepped == [opt.base]


def test_a_hook_before_the_step_may_replace_its_arguments() -> None:
    p = nn.Parameter(torch.ones(1))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), Sum())
    after = []
    opt.register_step_pre_hook(lambda optimizer, args, kwargs: ((*args, lambda: 7.0), kwargs))
    opt.register_step_post_hook(lambda optimizer, args, kwargs: after.append((optimizer, len(args))))
    assert opt.step() == 7.0
    assert after == [(opt, 2)]
    opt.register_step_pre_hook(lambda *_: 1)
    with pytest.raises(RuntimeError, match=r"None or a tuple \(new_args, new_kwargs\); got 1"):
        opt.step()


@pytest.mark.parametrize("how", ["backward", "join"])
def test_a_step_leaves_nothing_to_the_garbage_collector(how: str) -> None:
    """Long runs switch it off: a step that it stops for makes every other process wait."""
    net = nn.Linear(3, 2)
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), DWA(), refresh_every=2, history=2)

    def step() -> None:
        opt.zero_grad()
        y = net(torch.ones(4, 3))
        losses = {"a": y[:, 0].square().mean(), "b": y[:, 1].exp().mean()}
        if how == "join":
            opt.join(losses).backward()  # type: ignore[no-untyped-call]
        else:
            opt.backward(losses)
        opt.step()

    plain = nn.Linear(3, 2)
    base = torch.optim.Adam(plain.parameters())

    def plain_step() -> None:
        base.zero_grad()
        plain(torch.ones(4, 3)).square().mean().backward()
        base.step()

    # torch's own step leaves something too, where other packages have been imported
    assert garbage_of(step) == garbage_of(plain_step)


def garbage_of(step: Callable[[], None]) -> int:
    """How many objects four steps leave to the garbage collector."""
    garbage = []
    gc.disable()
    gc.freeze()  # what was there before: looking through it takes longer than the steps
    try:
        for _ in range(4):
            gc.collect()
            for _ in range(4):
                step()
            garbage.append(gc.collect())
    finally:
        gc.unfreeze()
        gc.enable()
    return min(garbage)  # what earlier tests have left may come to light at any time, what a step leaves each time
