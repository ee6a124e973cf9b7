"""Base optimizers and rules of several kinds, and a loop that trains with them, bare or wrapped."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from .hosts.problem import SlowNorms, batches, losses

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=0.05, fused=True),
    "RMSprop foreach": lambda params: torch.optim.RMSprop(params, lr=0.05, foreach=True),
}
BASE = pytest.mark.parametrize("base", list(BASES))
RULE = pytest.mark.parametrize("rule", [AngleBisector(), SlowNorms()], ids=lambda rule: type(rule).__name__)


def train(net: nn.Module, opt: torch.optim.Optimizer, part: slice, after: Callable[[], object] = lambda: None) -> None:
    for batch in batches()[part]:
        opt.zero_grad()
        values = losses(net, *batch)
        if isinstance(opt, MultiObjectiveGradient):
            opt.join(values).backward()
        else:
            torch.stack(list(values.values())).sum().backward()
        opt.step()
        after()
