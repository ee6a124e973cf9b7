"""What a rule may not return or do, and settings of the wrong kind: an error at once, and nothing has changed.

The rules are good ones for two losses, as which they are tried out when an optimizer is built, and bad for three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import Sum


def attempt(rule: Any, match: str, error: type[Exception] = TypeError) -> None:
    w = nn.Parameter(torch.ones(2))
    w.grad = before = torch.full((2,), 7.0)
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rule)
    with pytest.raises(error, match=match):
        opt.backward({"a": w.sum(), "b": w.exp().sum(), "c": w.square().sum()})
    assert w.grad is before
    assert not any(opt.param_groups[0].get("rule_state", {}))


class Returns:
    """A stateful rule that returns a state of its user's choice."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        self.returned = returned

    def init(self, gram: Tensor, /) -> dict[str, Tensor]:
        return {"x": gram[0] + 0}

    def update(self, gram: Tensor, state: dict[str, Tensor], /) -> Any:
        return (gram[0] + 0, state) if len(gram) < 3 else self.returned(torch.ones_like(gram[0]))


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (None, "NoneType"),
        ([1.0], "list"),
        (1.0, "float"),
        ({"x": 1.0}, "'x': float"),
        ({"x": {"y": torch.ones(())}}, "'x': dict"),
        ({1: torch.ones(())}, "1: Tensor"),
    ],
    ids=str,
)
def test_a_state_that_is_no_dict_of_tensors(state: Any, got: str) -> None:
    attempt(
        Returns(lambda ones: (ones, state)), rf"update\(\) of Returns must return a state that is a dict .*got {got}"
    )


def test_a_rule_that_forgets_its_state() -> None:
    attempt(Returns(lambda ones: ones), r"Returns must return \(weights, state\); got Tensor")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
def test_weights_that_are_no_real_numbers(dtype: torch.dtype) -> None:
    attempt(
        lambda gram: torch.ones(len(gram), dtype=dtype if len(gram) == 3 else gram.dtype),
        f"real floating-point weights; got {dtype}",
    )


def test_a_rule_that_changes_its_gram_matrix() -> None:
    attempt(
        lambda gram: (gram.clamp_ if len(gram) == 3 else gram.clamp)(min=1)[0].clone(),
        "must not change the Gram matrix",
        RuntimeError,
    )


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("refresh_every", 1.5, r"refresh_every .*1\.5"),
        ("refresh_every", True, "refresh_every .*True"),
        ("accumulate", "no", "accumulate .*'no'"),
        ("accumulate", 1, "accumulate .*1"),
    ],
)
def test_settings_of_the_wrong_kind(option: str, value: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        MultiObjectiveGradient(torch.optim.SGD([nn.Parameter(torch.ones(1))]), Sum(), **{option: value})


@pytest.mark.parametrize("losses", [[torch.ones(())], None, 3])
def test_held_weights_for_no_losses(losses: Any) -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum(), refresh_every=2)
    with pytest.raises(TypeError, match=f"must be a mapping.*got {type(losses).__name__}"):
        opt.backward(losses)
