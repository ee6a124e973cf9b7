"""A small two-headed problem, of which every process has a share of the samples, and one process all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule

NAMES = ("a", "b", "c")
EACH = 4
"""Samples of each process in each batch."""


def world() -> distributed.ProcessGroup:
    group = distributed.group.WORLD
    assert group is not None
    return group


class Net(nn.Module):
    """A trunk, a head for two losses, a head for the third, and a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh())
        self.first = nn.Linear(5, 2)
        self.second = nn.Linear(5, 1)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.first(features), self.second(features)


def network(dtype: torch.dtype = torch.float64) -> Net:
    torch.manual_seed(3)
    return Net().to(dtype)


def batch(i: int, processes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(processes * EACH, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(dtype)


def share(whole: Tensor) -> Tensor:
    return whole.chunk(distributed.get_world_size())[distributed.get_rank()]


def losses_of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y, z = net(x)
    return {"a": y[:, 0].square().mean(), "b": 3 * (y[:, 1] - x[:, 0]).square().mean(), "c": (z[:, 0] + 1).exp().mean()}


def base(net: nn.Module) -> torch.optim.Optimizer:
    """Not Adam, which a direction of the wrong length would not show under."""
    return torch.optim.SGD(net.named_parameters(), lr=0.01, momentum=0.9)


def alone(net: nn.Module, rule: Rule, **settings: object) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(base(net), rule, process_group=False, **settings)  # type: ignore[arg-type]


def together(net: nn.Module, rule: Rule, **settings: object) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(base(net), rule, process_group=world(), **settings)  # type: ignore[arg-type]


def by_backward(opt: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
    opt.backward(losses_of(model, x))


def by_join(opt: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
    opt.join(losses_of(model, x)).backward()


WAYS: dict[str, Callable[[MultiObjectiveGradient, nn.Module, Tensor], None]] = {
    "backward": by_backward,
    "join": by_join,
}


def train_both(
    ours: tuple[MultiObjectiveGradient, nn.Module],
    reference: tuple[MultiObjectiveGradient, nn.Module],
    steps: int,
    backward: Callable[[MultiObjectiveGradient, Any, Tensor], object] = by_backward,
    *,
    micro_batches: int = 1,
    dtype: torch.dtype = torch.float64,
    step: Callable[[MultiObjectiveGradient], object] = MultiObjectiveGradient.step,
) -> None:
    """The same steps twice: of the processes, each on its share of every batch, and of one process on all of it.

    Args:
        ours: an optimizer of the group and its model.
        reference: an optimizer without a group and its model.
        steps: how many.
        backward: is called with an optimizer, its model and a batch.
        micro_batches: how many backwards each step takes, of one batch each.
        dtype: of the batches.
        step: is called with an optimizer.
    """
    for i in range(steps):
        for (opt, model), part in ((ours, share), (reference, torch.clone)):
            opt.zero_grad()
            for micro in range(micro_batches):
                whole = batch(micro_batches * i + micro, distributed.get_world_size(), dtype)
                backward(opt, model, part(whole))
            step(opt)


def distance(net: nn.Module, other: nn.Module) -> float:
    """The largest difference of two models' parameters."""
    return max(
        float((_whole(p) - _whole(q)).detach().abs().max())
        for p, q in zip(net.parameters(), other.parameters(), strict=True)
    )


def same_everywhere(net: nn.Module) -> bool:
    """Whether all processes hold the same parameters, to the bit."""
    mine = torch.cat([p.detach().flatten() for p in net.parameters()])
    first = mine.clone()
    distributed.broadcast(first, 0)
    return bool(torch.equal(mine, first))


def _whole(p: Tensor) -> Tensor:
    found: Tensor = p.full_tensor() if hasattr(p, "full_tensor") else p
    return found
