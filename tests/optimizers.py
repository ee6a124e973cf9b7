"""Base optimizers and rules of several kinds, a loop that trains with them, bare or wrapped, and a resumed run."""

from __future__ import annotations

import io
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


def assert_resumes_bit_for_bit(
    network: Callable[[], nn.Module],
    wrap: Callable[[nn.Module], MultiObjectiveGradient],
    train: Callable[[nn.Module, MultiObjectiveGradient, int, int], object],
    cut: int,
    steps: int,
) -> None:
    """Saved to a file after ``cut`` steps and loaded, training goes on as if it had not been interrupted.

    Args:
        network: makes the same network every time.
        wrap: makes an optimizer for it.
        train: ``train(network, optimizer, first, last)`` takes the steps from ``first`` to before ``last``.
        cut: when the checkpoint is written.
        steps: of both runs.
    """
    net = network()
    opt = wrap(net)
    train(net, opt, 0, cut)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "opt": opt.state_dict()}, file)
    train(net, opt, cut, steps)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["net"])
    again = wrap(resumed)
    again.load_state_dict(saved["opt"])
    train(resumed, again, cut, steps)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), resumed.parameters(), strict=True))


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
