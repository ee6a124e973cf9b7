"""Optimizers of other packages as bases, where they are installed: they train, and resume bit for bit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from gradweight import MultiObjectiveGradient

from ..hosts.problem import SlowNorms, network
from ..optimizers import assert_resumes_bit_for_bit, train

# of these packages about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

BASES: dict[str, tuple[str, Callable[[Any, Any], Optimizer]]] = {
    "schedule-free AdamW": ("schedulefree", lambda package, p: package.AdamWScheduleFree(p, lr=0.01)),
    "schedule-free SGD": ("schedulefree", lambda package, p: package.SGDScheduleFree(p, lr=0.01)),
    "8-bit Adam": ("bitsandbytes.optim", lambda package, p: package.Adam8bit(p, lr=0.01)),
    "torchao's 8-bit AdamW": ("torchao.optim", lambda package, p: package.AdamW8bit(p, lr=0.01)),
    "lion": ("lion_pytorch", lambda package, p: package.Lion(p, lr=0.001)),
    **{
        name: ("pytorch_optimizer", lambda package, p, name=name: getattr(package, name)(p, lr=0.01))
        for name in ("AdaFactor", "Lion", "Prodigy", "SOAP", "Shampoo", "SPAM", "ScheduleFreeAdamW")
    },
    **{
        name: ("pytorch_optimizer", lambda package, p, name=name: getattr(package, name)(torch.optim.Adam(p, lr=0.01)))
        for name in ("Lookahead", "Magma")
    },
}


@pytest.mark.parametrize("name", BASES)
def test_a_resumed_run_goes_on_bit_for_bit(name: str) -> None:
    module, make = BASES[name]
    package = pytest.importorskip(module)

    def steps(net: nn.Module, opt: MultiObjectiveGradient, first: int, last: int) -> None:
        if hasattr(opt, "train"):
            opt.train()
        torch.manual_seed(first)  # Magma and SPAM draw
        before = [p.detach().clone() for p in net.parameters()]
        train(net, opt, slice(first, last))
        assert not any(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))

    def wrap(net: nn.Module) -> MultiObjectiveGradient:
        return MultiObjectiveGradient(make(package, net.parameters()), SlowNorms())

    assert_resumes_bit_for_bit(network, wrap, steps, 4, 7)


@pytest.mark.parametrize("name", ["SAM", "GSAM", "LookSAM", "FriendlySAM", "LOMO", "AdaLOMO", "AdaHessian", "SophiaH"])
def test_what_goes_backward_itself_is_refused(name: str) -> None:
    kind = getattr(pytest.importorskip("pytorch_optimizer"), name)
    net = network()
    if name in ("LOMO", "AdaLOMO"):
        base = kind(net, lr=0.01)
    elif name == "GSAM":
        schedule = importlib.import_module("pytorch_optimizer").ProportionScheduler
        inner = torch.optim.SGD(net.parameters(), lr=0.1)
        rate = torch.optim.lr_scheduler.StepLR(inner, 1)
        base = kind(net.parameters(), inner, model=net, rho_scheduler=schedule(rate, 0.1, 0.01, 1.0, 0.1))
    elif name.endswith("SAM"):
        base = kind(net.parameters(), torch.optim.SGD)
    else:
        base = kind(net.parameters(), lr=0.01)
    with pytest.raises(TypeError, match=r"steps along \.grad alone"):
        MultiObjectiveGradient(base, SlowNorms())
