"""A loss that a micro-batch does not have is None: tasks walked back one after the other are as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, NormBalance, Sum

NAMES = ("a", "b", "c")


def losses(net: nn.Module, name: str) -> Tensor:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    i = NAMES.index(name)
    return (net(x)[:, i] - i).square().mean()


def one_after_the_other(opt: MultiObjectiveGradient, net: nn.Module, how: str) -> None:
    for name in NAMES:
        given = {other: losses(net, name) if other == name else None for other in NAMES}
        opt.backward(given) if how == "backward" else opt.join(given).backward()


@pytest.mark.parametrize("rule", [Sum, AngleBisector, NormBalance])
@pytest.mark.parametrize("blocks", [None, "group"])
def test_it_equals_one_call(rule: Callable[[], Any], blocks: str | None) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    found = []
    for split in (True, False):
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule(), blocks=blocks)
        opt.zero_grad()
        if split:
            one_after_the_other(opt, net, "backward")
        else:
            opt.backward({name: losses(net, name) for name in NAMES})
        assert opt.last is not None
        found.append([opt.last.losses, opt.last.gram, *(p.grad.clone() for p in net.parameters())])
    # the same products; zeros are added to them
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_losses_that_are_known_again_in_the_next_micro_batch() -> None:
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    opt.backward({"a": 2 * w[0], "b": None})
    assert w.grad.tolist() == [1, 0]
    opt.backward({"a": w[0], "b": 5 * w[1]})
    assert w.grad.tolist() == [1, 1]
    seen = opt.backward({"b": 5 * w[1], "a": None})
    assert seen.names == ("a", "b")
    assert seen.gram.tolist() == [[9, 0], [0, 100]]
    assert seen.losses.tolist() == [3, 10]


def test_through_join_it_is_the_mean_over_the_micro_batches() -> None:
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    for given in ({"a": 2 * w[0], "b": None}, {"a": None, "b": 4 * w[1]}):
        (opt.join(given) / 2).backward()
    assert opt.last is not None
    assert opt.last.gram.tolist() == [[1, 0], [0, 4]]
    assert opt.last.losses.tolist() == [1, 2]


@pytest.mark.parametrize("given", [{"a": None}, {"a": None, "b": None}])
def test_no_loss_at_all_is_an_error(given: dict[str, None]) -> None:
    opt = MultiObjectiveGradient(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1), Sum())
    with pytest.raises(TypeError, match="'a' must be a scalar tensor; got NoneType"):
        opt.backward(given)


def test_another_name_is_still_an_error_that_says_what_to_write() -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    opt.backward({"a": w.sum()})
    with pytest.raises(ValueError, match="or pass None for a loss that one of them lacks"):
        opt.backward({"b": w.sum()})
