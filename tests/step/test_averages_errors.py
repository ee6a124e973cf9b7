"""Averages of gradients where there can be none, and rules that ask for them wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradweight import LossBalancer
from gradweight.func import combined_grad
from gradweight.rule import State
from gradweight.rules import CRMOGM, DBMTL, AngleBisector, ConFIG, MConFIG, MoCo, Normalized

from ..rules.averaged_training import batch, losses_of, network, wrapped


@pytest.mark.parametrize("options", [{"engine": "gram"}, {"refresh_every": 2}, {"reduce": "scatter"}], ids=str)
def test_settings_without_the_gradient_of_each_loss_on_every_step(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"MoCo\(.* asks for averages of the gradients, which need"):
        wrapped(MoCo(), network(), **options)


def test_who_keeps_no_averages_says_so() -> None:
    net = network()
    for build in (
        lambda: LossBalancer(MoCo(), net.parameters()),
        lambda: CRMOGM(MConFIG()),
        lambda: Normalized(DBMTL()),
        lambda: combined_grad(lambda p: p, MoCo())({}),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(
            TypeError, match=r"keeps no averages of the gradients .* which (MoCo|MConFIG|DBMTL) asks for"
        ):
            build()  # type: ignore[no-untyped-call]
    LossBalancer(DBMTL(beta=0.0), net.parameters())
    CRMOGM(DBMTL(beta=0.0))


def test_a_shared_tensor_has_no_average() -> None:
    net = network()
    opt = wrapped(MoCo(), net)
    features = net[0](batch(1))  # type: ignore[index]
    with pytest.raises(ValueError, match="shared= shows the rule gradients at a tensor of this batch"):
        opt.backward({"a": features.sum()}, shared=features)


@pytest.mark.parametrize(
    ("rule", "losses", "due", "error", "text"),
    [
        (AngleBisector(), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (ConFIG(), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (DBMTL(beta=0.0), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (MConFIG(), {"a": 0}, "b", ValueError, r"due must name losses of this step, \['a'\]"),
        (MConFIG(), {"a": 0}, [], ValueError, r"due must name losses of this step, \['a'\]"),
        (MConFIG(), lambda p: p, "a", TypeError, "due='a' needs a mapping of all losses by name; got function"),
        (MConFIG(), {"a": torch.ones(3)}, "a", ValueError, r"due= needs scalar losses, .*; \['a'\] are vectors"),
    ],
)
def test_due_that_has_no_meaning(rule: Any, losses: Any, due: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        wrapped(rule, network()).backward(losses, due=due)


class Broken:
    """An averaging rule whose factors, or whose declaration, are wrong."""

    def __init__(self, answer: Callable[[State], Any]) -> None:
        self.answer = answer

    def init(self, gram: Tensor) -> State:
        return {"count": gram[0] * 0}

    def average(self, state: State, /, *, due: Tensor) -> Any:
        return self.answer(state)

    def update(self, gram: Tensor, state: State, /) -> tuple[Tensor, State]:
        return gram[0] * 0 + 1, state


class Asks(Broken):
    def average(self, state: State, /, *, due: Tensor, gram: Tensor) -> Any:
        return None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda s: None, r"average\(\) of Broken must return \(keep, scale, state\); got NoneType"),
        (lambda s: (0.5, s["count"], s), r"average\(\) of Broken must return weights as a Tensor; got float"),
        (lambda s: (s["count"], s["count"], {"n": 1}), r"average\(\) of Broken must return a state that is a dict"),
    ],
)
def test_a_rule_that_answers_otherwise(answer: Any, text: str) -> None:
    net = network()
    with pytest.raises(TypeError, match=text):
        wrapped(Broken(answer), net).backward(losses_of(net, batch(1)))
    assert all(p.grad is None for p in net.parameters())


def test_a_rule_that_asks_for_something_else() -> None:
    with pytest.raises(
        TypeError, match=r"average\(\) of Asks may have the keyword-only parameters .*; it has \['due', 'g"
    ):
        wrapped(Asks(lambda s: None), network())
