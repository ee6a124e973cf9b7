"""What the host does in a step whose combination is replayed, beside two backward passes and Adam: on a GPU it costs.

A step of a small network takes as long as its Python and its launches do; times are in ``benchmarks/cost/step.py``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils._python_dispatch import TorchDispatchMode

import gradweight
from benchmarks.models import mlp
from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from .replaying import DEVICE

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.usefixtures("triton_language"),
]
if DEVICE == "cuda":
    pytestmark += [pytest.mark.cuda]

MOST_CALLS = 220
"""Of functions of ours, from `backward` to the end of `step`; 201 when this was written."""

HERE = str(Path(gradweight.__file__).parent)

NO_LAUNCH = {"aten.promote_types.default", "aten.lift_fresh.default", "aten._local_scalar_dense.default"}


class Launches(TorchDispatchMode):
    """The operations that write to memory of their own or of others; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or str(func) in NO_LAUNCH):
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def losses_of(net: nn.Module) -> dict[str, Tensor]:
    real, fake = torch.randn(2, 128, 2, device=DEVICE)
    return {"real": softplus(-net(real)).mean(), "fake": softplus(net(fake)).mean()}


@pytest.fixture
def training(graphs: list[Any]) -> tuple[nn.Module, MultiObjectiveGradient]:
    net = mlp(40, 4).to(DEVICE)
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), foreach=True), AngleBisector())
    for _ in range(4):
        opt.zero_grad()
        opt.backward(losses_of(net))
        opt.step()
    [graph] = graphs
    assert graph.replays > 1
    if DEVICE == "cpu":
        graph.recording.calls = []  # what a replay does is one launch
    return net, opt


def test_calls_of_ours(training: tuple[nn.Module, MultiObjectiveGradient]) -> None:
    net, opt = training
    opt.zero_grad()
    losses, calls = losses_of(net), Counter[str]()

    def count(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HERE):
            calls[f"{frame.f_code.co_filename}: {frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        opt.backward(losses)
        opt.step()
    finally:
        sys.setprofile(None)
    assert 50 < calls.total() <= MOST_CALLS, calls.most_common()


def test_launches(training: tuple[nn.Module, MultiObjectiveGradient]) -> None:
    net, opt = training
    opt.zero_grad()
    losses = losses_of(net)
    with Launches() as ours:
        opt.backward(losses)
        opt.step()
    opt.zero_grad()
    first, second = losses_of(net).values()
    with Launches() as plain:
        torch.autograd.grad(first, list(net.parameters()))
        for p, grad in zip(net.parameters(), torch.autograd.grad(second, list(net.parameters())), strict=True):
            p.grad = grad
        opt.base.step()
    # losses into one tensor and into the recording, addresses into the recording, what is returned out of it
    assert (ours.count - plain.count) == {"aten.stack.default": 1, "aten.copy_.default": 2, "aten.clone.default": 1}
