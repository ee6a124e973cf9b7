"""Rules that need no gradients, a small network of three losses, and its training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    DWA,
    FAMO,
    IMTLL,
    GeometricMean,
    SmoothTchebycheff,
    Uncertainty,
)

NAMES = ("a", "b", "c")


class Harmonic:
    """A user's own: w_i = 1 / L_i^2 over the sum of these, and a signal."""

    needs_gradients = False

    def __call__(self, gram: Tensor, /, *, losses: Tensor, sharpness: Tensor | float = 2.0) -> Tensor:
        weights = losses**-sharpness
        return weights / weights.sum()


LOSS_LEVEL = [Uncertainty(0.5), DWA(), FAMO(0.7), SmoothTchebycheff(mu=0.5), GeometricMean(), IMTLL(0.3), Harmonic()]
every_rule = pytest.mark.parametrize("rule", LOSS_LEVEL, ids=lambda rule: type(rule).__name__)


def all_gradients(rule: Any) -> Any:
    """The same rule, its statement that it needs no gradients taken back."""
    twin = copy.copy(rule)
    object.__setattr__(twin, "__class__", type("All", (type(rule),), {"needs_gradients": True}))
    return twin


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(i: int, n: int = 8) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def named(y: Tensor) -> dict[str, Tensor]:
    return {
        "a": 0.1 * y[:, 0].square().mean(),
        "b": 9 * (y[:, 1] - 1).abs().mean(),
        "c": (y[:, 2] - y[:, 1]).exp().mean(),
    }


def sgd(net: nn.Module, rule: Any, **settings: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.02), rule, **settings)


def train(net: nn.Module, opt: MultiObjectiveGradient, steps: range) -> None:
    for i in steps:
        opt.zero_grad()
        opt.backward(named(net(batch(i))))
        opt.step()


def same(one: nn.Module, other: nn.Module, rtol: float = 1e-10) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-13)


def walks_of(net: nn.Sequential) -> list[Tensor]:
    """Grows by one entry whenever a backward walks through the first layer."""
    walks: list[Tensor] = []
    net[0].register_forward_hook(lambda *out: (out[2].register_hook(walks.append), None)[1])
    return walks


def states(opt: MultiObjectiveGradient) -> list[Tensor]:
    saved = opt.param_groups[0].get("rule_state", {})
    return [value for state in saved.values() for value in state.values()]
