"""What belongs to one loss is freed when that loss has been differentiated, and nothing else is."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.gradients.release import FEWEST
from gradweight.rules import Sum

ROWS = FEWEST // 4
"""Samples of four features, large enough to be freed."""


class Multiply(torch.autograd.Function):
    """A custom function, which saves its tensors in its own way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return cotangents[0] * y, cotangents[0] * x


class Heads(nn.Module):
    """A trunk, and three heads on it whose intermediate activations are watched."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.x = nn.Linear(4, 4), torch.randn(ROWS, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.activations: list[weakref.ref[Tensor]] = []

    def forward(self) -> dict[str, Tensor]:
        features = self.trunk(self.x).tanh()
        losses = {}
        for i, head in enumerate(self.heads):
            hidden = head(features).exp()
            self.activations.append(weakref.ref(hidden))
            losses[f"loss {i}"] = Multiply.apply(hidden, hidden).mean()
        return losses

    @property
    def alive(self) -> list[bool]:
        return [activation() is not None for activation in self.activations]


def wrapped(net: nn.Module, **options: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum(), **options)


@pytest.mark.parametrize("engine", ["auto", "autograd", "hooks"])
@pytest.mark.parametrize("how", ["backward", "join"])
def test_nothing_is_held_by_losses_that_are_still_there(how: str, engine: str) -> None:
    net = Heads()
    opt, losses = wrapped(net, engine=engine), net()
    assert all(net.alive)
    expected = torch.autograd.grad(sum(losses.values()), list(net.parameters()), retain_graph=True)
    if how == "backward":
        opt.backward(losses)
    else:
        opt.join(losses).backward()
    assert not any(net.alive)
    # float32 in another order
    torch.testing.assert_close([p.grad for p in net.parameters()], list(expected))
    with pytest.raises(RuntimeError, match="second time"):
        losses["loss 0"].backward()


def test_each_is_freed_before_the_next_is_differentiated() -> None:
    net = Heads()
    losses, seen = net(), []
    for loss in losses.values():
        loss.register_hook(lambda gradient: seen.append(net.alive))
    wrapped(net).backward(losses)
    assert seen == [[True, True, True], [False, True, True], [False, False, True]]


def test_retained_graphs_stay() -> None:
    net = Heads()
    opt, losses = wrapped(net), net()
    opt.backward(losses, retain_graph=True)
    assert all(net.alive)
    once = [p.grad.clone() for p in net.parameters()]
    opt.backward(losses)
    torch.testing.assert_close([p.grad for p in net.parameters()], [2 * grad for grad in once])
    assert not any(net.alive)


def test_what_others_may_still_need_stays() -> None:
    """A generator's graph behind the losses of a discriminator, of which each has a part of its own."""
    generator, net = nn.Linear(4, 4), nn.Linear(4, 4)
    fakes = [generator(torch.ones(ROWS, 4)).exp() for _ in range(2)]
    shared = net(torch.ones(ROWS, 4))
    losses = {f"loss {i}": (net(fake) * shared.exp()).mean() for i, fake in enumerate(fakes)}
    wrapped(net).backward(losses)
    sum(fake.mean() for fake in fakes).backward()
    assert generator.weight.grad is not None


def test_what_hooks_have_moved_elsewhere_is_left_to_them() -> None:
    net = Heads()
    with torch.autograd.graph.save_on_cpu():
        losses = net()
    wrapped(net).backward(losses)
    assert all(p.grad is not None for p in net.parameters())
