"""A small network in float64 with three losses, trained by a wrapped SGD and, step by step, by an oracle on vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient

NAMES = ("a", "b", "c")
LR = 0.1

Oracle = Callable[[int, np.ndarray, np.ndarray, Sequence[bool]], np.ndarray]
"""(step from 1, gradients (m, k), losses (m,), which are due) -> direction (k,)."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batch(step: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def losses_of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Positive ones of different sizes, which share the trunk and have a row each of the last layer."""
    out = net(x)
    targets = (0.5 + x[:, 0], 3 * x[:, 1], 1 - x[:, 2])
    return {n: 4.0**i * (out[:, i] - t).square().mean() for i, (n, t) in enumerate(zip(NAMES, targets, strict=True))}


def wrapped(rule: Any, net: nn.Module, **options: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=LR), rule, **options)


def parameters(net: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy().copy()


def trained(rule: Any, dues: Sequence[Sequence[str] | None], **options: Any) -> np.ndarray:
    """The parameters after steps in which these losses were due."""
    net = network()
    opt = wrapped(rule, net, **options)
    for step, due in enumerate(dues, 1):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(step)), due=due)
        opt.step()
    return parameters(net)


def followed(oracle: Oracle, dues: Sequence[Sequence[str] | None]) -> np.ndarray:
    """The same by an oracle, which is given whole gradients of single losses."""
    net = network()
    for step, due in enumerate(dues, 1):
        losses = losses_of(net, batch(step))
        flat = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)])
            for loss in losses.values()
        ]
        values = torch.stack(list(losses.values())).detach().numpy()
        direction = oracle(step, torch.stack(flat).numpy(), values, [due is None or name in due for name in NAMES])
        moved = torch.from_numpy(parameters(net) - LR * direction)
        nn.utils.vector_to_parameters(moved, net.parameters())
    return parameters(net)
