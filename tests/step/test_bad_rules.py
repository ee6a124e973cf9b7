"""What a rule may not return or do, and settings of the wrong kind: an error at once, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import Sum
from gradweight.step import settings


@pytest.fixture(autouse=True)
def _not_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rule does wrong on a step, though it has answered well when it was tried at construction."""
    monkeypatch.setattr(settings, "check_rule_once", lambda rule: None)


def attempt(rule: Any, match: str, error: type[Exception] = TypeError) -> None:
    w = nn.Parameter(torch.ones(2))
    w.grad = before = torch.full((2,), 7.0)
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rule)
    with pytest.raises(error, match=match):
        opt.backward({"a": w.sum(), "b": w.exp().sum()})
    assert w.grad is before
    assert not any(opt.param_groups[0].get("rule_state", {}))
    with pytest.warns(UserWarning, match="not written by the wrapper"):
        opt.step()
    assert not any(opt.param_groups[0].get("rule_state", {}))


class Returns:
    """A stateful rule that returns a state of its user's choice."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        self.returned = returned

    def init(self, gram: Tensor, /) -> dict[str, Tensor]:
        return {"x": gram[0]}

    def update(self, gram: Tensor, state: dict[str, Tensor], /) -> Any:
        return self.returned(torch.ones_like(gram[0]))


@pytest.mark.parametrize(
    ("state", "got"),
    [
        (None, "NoneType"),
        ([1.0], "list"),
        (1.0, "float"),
        ({"x": 1.0}, "float for 'x'"),
        ({"x": {"y": torch.ones(())}}, "dict for 'x'"),
        ({1: torch.ones(())}, "Tensor for 1"),
    ],
    ids=str,
)
def test_a_state_that_is_no_dict_of_tensors(state: Any, got: str) -> None:
    attempt(Returns(lambda ones: (ones, state)), rf"Returns must return its state as a dict of tensors.*got {got}")


def test_a_rule_that_forgets_its_state() -> None:
    attempt(Returns(lambda ones: ones), r"Returns must return \(weights, state\); got Tensor")


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64])
def test_weights_that_are_no_real_numbers(dtype: torch.dtype) -> None:
    attempt(lambda gram: torch.ones(2, dtype=dtype), f"real floating-point weights; got {dtype}")


def test_a_rule_that_changes_its_gram_matrix() -> None:
    attempt(lambda gram: gram.clamp_(min=1)[0], "must not change the Gram matrix", RuntimeError)


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("refresh_every", 1.5, "refresh_every must be an int of at least 1; got 1.5"),
        ("refresh_every", True, "refresh_every must be an int of at least 1; got True"),
        ("accumulate", "no", "True or False; got 'no'"),
        ("accumulate", 1, "True or False; got 1"),
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
