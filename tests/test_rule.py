"""What a rule is: its three shapes, the signals that it declares, and the messages where they do not fit."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gradweight import CoordinateRule, StatefulRule
from gradweight.func import combined_grad
from gradweight.rule import BY_THEMSELVES, Signals, array_namespace, check_weights
from gradweight.rules import AdaptiveWeights, AngleBisector


def follow_the_first(gram):
    """The smallest rule there is: a function."""
    xp = array_namespace(gram)
    return xp.stack([gram[0, 0] ** 0 if i == 0 else 0 * gram[0, 0] for i in range(gram.shape[0])])


@dataclass(frozen=True)
class Alternating:
    """A stateful rule: follows the losses in turn."""

    def init(self, gram):
        return {"turn": 0 * gram[0, 0]}

    def update(self, gram, state, /, *, pace, names=None):
        xp = array_namespace(gram)
        turn = xp.stack([xp.astype(state["turn"] == i, gram.dtype) for i in range(gram.shape[0])])
        return turn, {"turn": (state["turn"] + pace) % gram.shape[0]}


@dataclass(frozen=True)
class Smallest:
    """A coordinate rule: the smallest of each coordinate."""

    def combine(self, rows, /, *, losses):
        return array_namespace(rows).min(rows, axis=0)


# ---- the three shapes


def test_the_shape_alone_says_which_it_is() -> None:
    shapes = [(follow_the_first, False, False), (Alternating(), True, False), (Smallest(), False, True)]
    for rule, stateful, by_coordinate in shapes:
        assert isinstance(rule, StatefulRule) == stateful
        assert isinstance(rule, CoordinateRule) == by_coordinate


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (follow_the_first, Signals("follow_the_first", frozenset(), frozenset(), False)),
        (lambda gram, /: gram[0], Signals("<lambda>", frozenset(), frozenset(), False)),
        (Alternating(), Signals("Alternating", frozenset({"pace"}), frozenset({"pace", "names"}), False)),
        (Smallest(), Signals("Smallest", frozenset({"losses"}), frozenset({"losses"}), False)),
        (lambda gram, *, a, b=1, **rest: gram, Signals("<lambda>", frozenset("a"), frozenset("ab"), True)),
        (
            AdaptiveWeights(),
            Signals(
                "AdaptiveWeights",
                frozenset({"real_score", "fake_score"}),
                frozenset({"real_score", "fake_score", "names", "losses"}),
                False,
            ),
        ),
    ],
    ids=["function", "lambda", "stateful", "coordinates", "takes any", "dataclass"],
)
def test_declaration_is_read_off_the_signature(rule, expected: Signals) -> None:
    assert Signals.of(rule) == expected


def test_partial_application_fills_a_signal_in() -> None:
    def rule(gram, /, *, temperature):
        return gram[0] * temperature

    declared = Signals.of(functools.partial(rule, temperature=2.0))
    assert declared.required == frozenset()
    assert declared.known == {"temperature"}


@pytest.mark.parametrize("rule_class", [AngleBisector, Alternating, Smallest])
def test_a_class_is_not_a_rule(rule_class: type) -> None:
    name = rule_class.__name__
    message = rf"a rule must be an instance; got the class {name}: write {name}\(\)"
    with pytest.raises(TypeError, match=message):
        Signals.of(rule_class)


@pytest.mark.parametrize("thing", [None, 3, "AngleBisector", {"real": 1.0}])
def test_neither_callable_nor_stateful_nor_by_coordinates(thing) -> None:
    message = (
        r"a rule must be callable as rule\(gram\) -> weights, or have init and update, or have combine; "
        rf"got an instance of {type(thing).__name__}"
    )
    with pytest.raises(TypeError, match=message):
        Signals.of(thing)


@pytest.mark.parametrize(
    ("rule", "signals", "expected"),
    [
        (follow_the_first, {}, [1.0, 1.0]),
        (Alternating(), {"pace": 1.0}, [1.0, 1.0]),
        (Smallest(), {}, [-3.0, 1.0]),
    ],
    ids=["function", "stateful", "coordinates"],
)
def test_all_three_combine_gradients(rule, signals, expected: list[float]) -> None:
    """Through the functional transform, which hands each shape what it declares."""

    def losses(params):
        w = params["w"]
        values = {"one": w.sum(), "other": 2 * w[1] - 3 * w[0]}
        return (values, {name: torch.tensor(x) for name, x in signals.items()}) if signals else values

    direction, *_ = combined_grad(losses, rule, has_signals=bool(signals))({"w": torch.zeros(2)})
    assert direction["w"].tolist() == expected


# ---- signals


SCORED = Signals.of(AdaptiveWeights())


def test_signals_that_fit_pass() -> None:
    SCORED.check({"real_score", "fake_score"}, "backward()")
    Signals.of(AngleBisector()).check(set(), "backward()")
    Signals.of(lambda gram, **rest: gram).check({"whatever"}, "backward()")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"real_score": 0.5},
            r"AdaptiveWeights needs the signal 'fake_score'; backward\(\) was given \['real_score'\]",
        ),
        ({}, r"AdaptiveWeights needs the signal 'fake_score'; backward\(\) was given no signals"),
        (
            {"real_score": 0.5, "fake_score": 0.5, "fake_scores": 0.5},
            r"AdaptiveWeights has no signal 'fake_scores'; it takes \['fake_score', 'real_score'\], and backward\(\) "
            r"was given \['fake_score', 'fake_scores', 'real_score'\]",
        ),
        (
            {"real_score": 0.5, "fake_score": 0.5, "names": ("real", "fake")},
            r"AdaptiveWeights has no signal 'names'; it takes \['fake_score', 'real_score'\]",
        ),
    ],
    ids=["one missing", "all missing", "unknown", "comes by itself"],
)
def test_signals_that_do_not_fit(given: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SCORED.check(given, "backward()")


def test_a_rule_without_signals_takes_none() -> None:
    with pytest.raises(TypeError, match=r"AngleBisector has no signal 'score'; it takes none, and backward\(\)"):
        Signals.of(AngleBisector()).check({"score"}, "backward()")


def test_even_a_rule_that_takes_any_gets_its_own_signals_from_the_caller() -> None:
    declared = Signals.of(lambda gram, **rest: gram)
    for name in BY_THEMSELVES:
        with pytest.raises(TypeError, match=f"has no signal '{name}'"):
            declared.check({name}, "backward()")


def test_what_comes_by_itself_need_not_be_given() -> None:
    def rule(gram, /, *, names, losses, step):
        return gram[0]

    Signals.of(rule).check(set(), "backward()")
    with pytest.raises(TypeError, match="rule needs the signal 'step'; the caller was given no signals"):
        Signals.of(rule).check(set(), "the caller", by_themselves={"names", "losses"})


def test_selection_is_what_the_rule_declares() -> None:
    everything = {"names": ("a",), "losses": 1, "real_score": 2, "other": 3}
    assert SCORED.select(everything) == {"names": ("a",), "losses": 1, "real_score": 2}
    assert Signals.of(follow_the_first).select(everything) == {}
    assert Signals.of(lambda gram, **rest: gram).select(everything) == everything


# ---- weights and namespaces


def test_weights_of_the_right_shape_pass() -> None:
    check_weights(torch.ones(2), "Rule", torch.eye(2))
    check_weights(np.ones(2), "Rule", np.eye(2))


def test_weights_of_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"Rule must return one weight per loss, shape \(2,\); got shape \(3,\)"):
        check_weights(torch.ones(3), "Rule", torch.eye(2))
    with pytest.raises(ValueError, match=r"Rule must return one weight per loss, shape \(2,\); got shape \(2, 1\)"):
        check_weights(torch.ones(2, 1), "Rule", torch.eye(2))


@pytest.mark.parametrize(("weights", "got"), [([1.0, 1.0], "list"), (np.ones(2), "ndarray"), (None, "NoneType")])
def test_weights_of_another_library(weights, got: str) -> None:
    with pytest.raises(TypeError, match=f"Rule must return weights as a Tensor; got {got}"):
        check_weights(weights, "Rule", torch.eye(2))


@pytest.mark.parametrize("array", [np.eye(2), torch.eye(2)], ids=["numpy", "torch"])
def test_namespace_is_of_the_array_api(array) -> None:
    xp = array_namespace(array)
    assert isinstance(xp.astype(array, xp.float64), type(array))
    assert xp.linalg.diagonal(array).shape == (2,)
