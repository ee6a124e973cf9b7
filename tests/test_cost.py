"""What the combination costs, as counts: the 9k operations of the paper, and no k-sized tensor of our own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.cost.counting import count
from gradweight import MultiObjectiveGradient
from gradweight.linalg.gram import CUTS, gram
from gradweight.linalg.weighted_sum import weighted_sum
from gradweight.rules import AngleBisector

K = 3 * CUTS["cpu"].piece * torch.get_num_threads() + 1000  # several pieces and a rest, all large enough to be counted
LARGE = 500


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_operations_are_the_floor(m: int) -> None:
    rows: list[list[Tensor | None]] = [[torch.randn(K)] for _ in range(m)]
    out = [torch.empty(K)]
    products = count(lambda: gram(rows), LARGE)
    assert products.operations == m * (m + 1) * K  # each pair once, a multiplication and an addition per element
    direction = count(lambda: weighted_sum(rows, torch.ones(m), out), LARGE)
    assert direction.operations == (2 * m - 1) * K
    assert products.unknown == direction.unknown == set()
    assert products.allocations == direction.allocations == 0
    if m == 2:  # "an order of 6k", "an order of 3k ... totalling to an order of 9k": arXiv:2012.03149, section 3
        assert products.operations + direction.operations == 9 * K


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 400, bias=False), nn.Linear(400, 300, bias=False))


def losses(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {"real": net(x).square().mean(), "fake": net(x + 1).abs().mean()}


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("penalty", [False, True])
def test_a_step_allocates_nothing_large_beyond_what_autograd_returns(accumulate: bool, penalty: bool) -> None:
    net = network()
    x = torch.randn(1, 300)
    size = 400 * 300  # one parameter's elements; a batch of one keeps the activations far smaller
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), accumulate=accumulate)

    def named() -> dict[str, Tensor]:
        some = losses(net, x)
        return some | {"decay": net(x).sum()} if penalty else some

    opt.backward(named())  # makes the direction's buffer
    opt.step()
    opt.zero_grad()
    ready = list(named().values())
    by_autograd = count(lambda: [torch.autograd.grad(loss, list(net.parameters())) for loss in ready], size)
    ready_by_name = named()
    ours = count(lambda: opt.backward(ready_by_name), size)
    assert by_autograd.allocations == 2 * len(ready)
    assert ours.allocations == by_autograd.allocations
    step = count(opt.step, size)
    assert step.allocations == 0


def test_the_count_notices_a_copy() -> None:
    a, b = torch.randn(K), torch.randn(K)
    assert count(lambda: torch.stack([a, b]), LARGE).allocations == 1
    assert count(lambda: torch.stack([a, b]), LARGE).unknown == {"aten.stack.default"}


def test_gradients_are_where_autograd_left_them_when_combined_in_place() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), accumulate=False)
    seen = []
    for p in net.parameters():
        p.register_hook(lambda grad: seen.append(grad.data_ptr()))
    opt.backward(losses(net, torch.randn(4, 300)))
    assert all(p.grad is not None and p.grad.data_ptr() in seen for p in net.parameters())


def test_the_direction_has_one_buffer_that_is_kept() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    places = []
    for _ in range(3):
        opt.zero_grad()
        opt.backward(losses(net, torch.randn(4, 300)))
        places.append([p.grad.data_ptr() for p in net.parameters() if p.grad is not None])
        opt.step()
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == 2
