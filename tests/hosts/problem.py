"""One small two-loss problem and its training written out by hand: what every host must reproduce.

The network, the data and the order of the batches are fixed. `by_hand` uses nothing of the package: one
`torch.autograd.grad` per loss and micro-batch, means over the micro-batches, the angle bisector as Theorem 2.1 prints
it, clipping, and a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rule import Array, Rule, State
from gradweight.rules import AngleBisector

MICRO_BATCHES = 12
BATCH_SIZE = 5
LEARNING_RATE = 0.05


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(BATCH_SIZE, 3, generator=generator), torch.randn(BATCH_SIZE, 2, generator=generator))
        for _ in range(MICRO_BATCHES)
    ]


def losses(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    prediction = net(x)
    return {"fit": (prediction - y).square().mean(), "size": 30 * prediction.abs().mean()}


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def wrapped(
    net: nn.Module, rule: Rule | None = None, base: Callable[..., Any] = torch.optim.Adam
) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(base(net.parameters(), lr=LEARNING_RATE), AngleBisector() if rule is None else rule)


def several(params: Iterable[Tensor], lr: float) -> list[torch.optim.Optimizer]:
    """A base for matrices and one for the rest."""
    params = list(params)
    matrices = torch.optim.SGD([p for p in params if p.ndim == 2], lr=lr, momentum=0.9)
    return [matrices, torch.optim.Adam([p for p in params if p.ndim != 2], lr=lr)]


@dataclass(frozen=True)
class SlowNorms:
    """A rule with a memory that shows in every step: unit weights by the running mean of the norms."""

    def init(self, gram: Array) -> State:
        return {"norms": gram.diagonal().sqrt(), "steps": torch.zeros((), dtype=torch.int64)}

    def update(self, gram: Array, state: State, /) -> tuple[Array, State]:
        norms = 0.7 * state["norms"] + 0.3 * gram.diagonal().sqrt()
        return 1 / norms, {"norms": norms, "steps": state["steps"] + 1}


def by_hand(
    *,
    accumulate: int = 1,
    divide: bool = True,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    base: Callable[..., Any] = torch.optim.Adam,
    epochs: int = 1,
    autocast: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The parameters after training. ``divide=False``: a host that leaves .grad the sum over the micro-batches."""
    net = network()
    params = list(net.parameters())
    made = base(params, lr=LEARNING_RATE)
    optimizers = made if isinstance(made, list) else [made]
    schedules = [] if scheduler is None else [scheduler(optimizer) for optimizer in optimizers]
    for _ in range(epochs):
        rows = [[torch.zeros_like(p) for p in params] for _ in range(2)]
        for i, (x, y) in enumerate(batches()):
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                values = losses(net, x, y)
            for row, loss in zip(rows, values.values(), strict=True):
                for total, g in zip(row, torch.autograd.grad(loss, params, retain_graph=True), strict=True):
                    total += g / accumulate
            if (i + 1) % accumulate:
                continue
            factor = 1 if divide else accumulate
            for p, g in zip(params, bisector(rows), strict=True):
                p.grad = factor * g
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(params, clip_norm)
            if clip_value is not None:
                nn.utils.clip_grad_value_(params, clip_value)
            for each in (*optimizers, *schedules):
                each.step()
            rows = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    return copy.deepcopy(net.state_dict())


def bisector(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The sum of the two unit gradients, parameter by parameter."""
    inverse = [1 / torch.cat([g.flatten() for g in row]).norm() for row in rows]
    return [inverse[0] * a + inverse[1] * b for a, b in zip(*rows, strict=True)]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Equal to 1e-6 of each tensor's size: float32, the same operations in another order."""
    for name, tensor in expected.items():
        error = (found[name].cpu() - tensor).abs().max() / tensor.abs().max()
        assert error <= tolerance, f"{name}: {error}"
