"""Losses that are functions of the parameters: where these get their names from."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.rules import Constant, Sum


def _half(net, x):
    return lambda p: {"a": functional_call(net, p, (x,)).mean(), "b": functional_call(net, p, (x,)).square().mean()}


@pytest.mark.parametrize("source", ["base", "params pairs", "params mapping", "groups"])
def test_names_come_from_the_base_or_from_params(source):
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    named = list(net.named_parameters())
    base, params = {
        "base": (torch.optim.SGD(named, lr=0.1), None),
        "groups": (torch.optim.SGD([{"params": [named[0]]}, {"params": [named[1]], "lr": 0.2}], lr=0.1), None),
        "params pairs": (torch.optim.SGD(net.parameters(), lr=0.1), iter(named)),
        "params mapping": (torch.optim.SGD(net.parameters(), lr=0.1), dict(named)),
    }[source]
    opt = MultiObjectiveGradient(base, Constant({"a": 1.0, "b": 2.0}), params=params)
    opt.backward(_half(net, x))
    found = [p.grad.clone() for p in net.parameters()]
    opt.zero_grad()
    (net(x).mean() + 2 * net(x).square().mean()).backward()
    torch.testing.assert_close(found, [p.grad for p in net.parameters()])


def test_a_frozen_parameter_is_not_among_those_that_a_function_receives():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    net.bias.requires_grad_(False)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), Sum())
    seen = []
    opt.backward(lambda p: seen.append(sorted(p)) or {"a": functional_call(net, p, (x,)).mean()})
    assert seen == [["weight"]]
    assert net.bias.grad is None


def test_names_must_be_known_for_functions():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum())
    with pytest.raises(ValueError, match=r"need parameter names.*module.named_parameters\(\)"):
        opt.backward(_half(net, x))
    with pytest.raises(ValueError, match=r"params must name every parameter of the base.*\(2, 3\)"):
        MultiObjectiveGradient(opt.base, Sum(), params=[("bias", net.bias)])


def test_two_parameters_of_one_name_are_an_error():
    """Two modules in two groups may both have a 'weight': a function could not tell them apart."""
    a, b = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    params = [*a.named_parameters(), *b.named_parameters()]
    base = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="weight"):
        MultiObjectiveGradient(base, Sum(), params=params).backward(lambda p: {"a": p["weight"].sum()})
    assert a.weight.grad is None
    assert b.weight.grad is None
