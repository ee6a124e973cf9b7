"""Every rule that looks for a loss which a field of it names says so where there is none of that name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gradweight.rule import Signals, StatefulRule
from gradweight.rules import AdvAs, VQGANWeight
from gradweight.rules.claims import CLAIMS, NAMES, Claims


def ask(rule: object, names: tuple[str, ...], **signals: float) -> None:
    m = len(names)
    gram, ones = np.eye(m), np.ones(m)
    given = Signals.of(rule).select({"names": names, "losses": ones, "max_abs": ones, "mean_abs": ones, **signals})
    if isinstance(rule, StatefulRule):
        rule.update(gram, rule.init(gram), **given)
    else:
        rule(gram, **given)


def named_by_fields(claims: Claims) -> list[str]:
    """The fields that hold the name of a loss: text which is one of the names that the claims are made for."""
    rule = claims.rule
    fields = dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ()
    return [f.name for f in fields if isinstance(getattr(rule, f.name), str) and getattr(rule, f.name) in NAMES]


CASES = [(claims, field) for claims in CLAIMS for field in named_by_fields(claims)]


def test_there_are_such_rules() -> None:
    assert {type(claims.rule).__name__ for claims, _ in CASES} == {
        "AdaptiveWeights",
        "AdvAs",
        "MetaBalance",
        "OrthogonalProjection",
        "PCD",
        "PINNAnnealing",
        "PINNNormAnnealing",
        "VQGANWeight",
    }


@pytest.mark.parametrize(("claims", "field"), CASES, ids=[f"{claims.name}-{field}" for claims, field in CASES])
def test_a_name_that_no_loss_has(claims: Claims, field: str) -> None:
    present = NAMES[: max(2, claims.losses[0])]
    ask(claims.rule, present, **claims.signals)
    absent = dataclasses.replace(claims.rule, **{field: "adv_as"})
    with pytest.raises(ValueError, match=rf"{type(absent).__name__} needs the loss 'adv_as'; this step has \['a', 'b'"):
        ask(absent, present, **claims.signals)


def test_a_loss_that_is_declared_as_one_that_comes_and_goes() -> None:
    for rule, field in ((AdvAs("x"), "penalty"), (VQGANWeight("a", "x"), "adversarial")):
        name = type(rule).__name__
        with pytest.raises(ValueError, match=rf"{name} needs the loss 'x'; .*{name}\(every_step=False\) if it comes"):
            ask(rule, ("a", "b"))
        ask(dataclasses.replace(rule, every_step=False), ("a", "b"))
        assert getattr(rule, field) == "x"


def test_the_reconstruction_is_needed_wherever_the_adversarial_loss_is() -> None:
    with pytest.raises(ValueError, match="needs the loss 'reconstruction'; this step has"):
        ask(VQGANWeight(every_step=False), ("rec", "adversarial"))
