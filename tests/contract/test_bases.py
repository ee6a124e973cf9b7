"""What is asked of a base, and what a base may leave to be desired."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, Sum


class WithoutArgument(torch.optim.SGD):
    """As some libraries have it, whose constructor says once and for all how gradients are cleared."""

    def zero_grad(self) -> None:  # type: ignore[override]
        super().zero_grad(set_to_none=True)


class AnyArgument(torch.optim.SGD):
    def zero_grad(self, *args: Any) -> None:  # type: ignore[override]
        super().zero_grad(*args)


class ByKeyword(torch.optim.SGD):
    def zero_grad(self, *, foreach: bool = False) -> None:  # type: ignore[override]
        super().zero_grad()


@pytest.mark.parametrize("kind", [WithoutArgument, AnyArgument, ByKeyword])
def test_a_base_whose_zero_grad_takes_no_argument(kind: type[torch.optim.SGD]) -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(kind([w], lr=0.1), Sum())
    for _ in range(2):
        opt.zero_grad()
        assert w.grad is None
        opt.backward({"a": w.sum()})
        assert w.grad.tolist() == [1, 1]


def test_an_optimizer_that_accelerate_has_prepared() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared = accelerator.prepare(torch.optim.Adam([nn.Parameter(torch.ones(2))]))
    with pytest.raises(TypeError, match="wrap first, and prepare the wrapper"):
        MultiObjectiveGradient(prepared, Sum())


def test_names_that_clash() -> None:
    """Torch lets two modules' names clash; who asks for names is told."""
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    named = itertools.chain(a.named_parameters(), b.named_parameters())
    opt = MultiObjectiveGradient(torch.optim.SGD(named, lr=0.1), Sum())
    x = torch.ones(1, 2)
    opt.backward({"a": a(x).sum(), "b": b(x).sum()})
    with pytest.raises(ValueError, match="a name of its own for each parameter"):
        opt.backward({"f": lambda p: p["weight"].sum()})
    named = itertools.chain(a.named_parameters(), b.named_parameters())
    by_layer = MultiObjectiveGradient(torch.optim.SGD(named, lr=0.1), Sum(), blocks="layer")
    with pytest.raises(ValueError, match="a name of its own for each parameter"):
        by_layer.backward({"a": a(x).sum(), "b": b(x).sum()})


def with_rule_state(good: dict[str, Any], state: Any) -> dict[str, Any]:
    good["param_groups"][0]["rule_state"] = state
    return good


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda good: None, "got NoneType"),
        (lambda good: [good], "got list"),
        (lambda good: {}, r"got no \['state', 'param_groups'\]"),
        (lambda good: {"model": good}, r"among \['model'\]"),
        (lambda good: good | {"param_groups": good["param_groups"] * 2}, r"needs as many .*\[1\]; got \[1, 1\]"),
        *(
            (lambda good, state=state: with_rule_state(good, state), f"got {match}")
            for state, match in [(5, "5"), (None, "None"), ([1], r"\[1\]"), (torch.ones(1), r"tensor\(\[1")]
        ),
    ],
)
def test_a_state_dict_that_does_not_load_changes_nothing(spoil: Any, match: str) -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1, momentum=0.9), DWA())
    opt.backward({"a": w.sum(), "b": w.exp().sum()})
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises((TypeError, ValueError), match=match):
        opt.load_state_dict(spoil(copy.deepcopy(before)))
    now = opt.state_dict()
    assert now["param_groups"] == before["param_groups"]
    assert torch.equal(now["state"][0]["momentum_buffer"], before["state"][0]["momentum_buffer"])
    opt.backward({"a": w.sum(), "b": w.exp().sum()})
    opt.step()


def test_parameters_in_a_format_for_storage() -> None:
    small = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))
    with pytest.raises(TypeError, match=r"of shape \(2,\) in torch.float8_e4m3fn, which is for storage"):
        MultiObjectiveGradient(torch.optim.SGD([small], lr=0.1), Sum())
    w = nn.Parameter(torch.ones(2))
    MultiObjectiveGradient(torch.optim.SGD([w, small.requires_grad_(False)], lr=0.1), Sum())  # frozen, it may stay
