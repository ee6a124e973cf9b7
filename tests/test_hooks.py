"""Hooks on parameters, as the guide has them: on each loss's gradient, or on the direction before the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import Constant


@pytest.mark.parametrize(("engine", "times"), [("autograd", 0), ("hooks", 2)])
def test_hooks_on_parameters_see_single_losses(engine: str, times: int) -> None:
    p = nn.Parameter(torch.ones(2))
    seen, called = [], []
    p.register_hook(lambda g: (seen.append(g.tolist()), g.clamp(max=1))[1])
    p.register_post_accumulate_grad_hook(called.append)
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), Constant({"a": 2.0, "b": 4.0}), engine=engine)
    opt.backward({"a": 3 * p[0], "b": 5 * p[1]})
    assert seen == [[3, 0], [0, 5]]
    assert p.grad.tolist() == [2, 4]
    assert len(called) == times


def test_a_hook_before_the_step_sees_the_direction() -> None:
    p = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=1.0), Constant({"a": 2.0, "b": 4.0}))

    def clamp(*_: object) -> None:
        p.grad.clamp_(max=7)

    opt.register_step_pre_hook(clamp)
    opt.backward({"a": 3 * p[0], "b": 5 * p[1]})
    opt.step()
    assert p.tolist() == [-5, -6]
