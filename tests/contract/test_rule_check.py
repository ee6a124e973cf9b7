"""What is no rule is refused when the optimizer is built, and what is one is left as it was."""

import functools

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import FAMO, Constant, Sum
from gradweight.rules.claims import CLAIMS


def wrapped(rule):
    return MultiObjectiveGradient(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1), rule)


class Stateful:
    """Right as it is; a subclass has one fault."""

    def init(self, gram, /):
        return {"mean": gram[0] * 0 + 1}

    def update(self, gram, state, /):
        return state["mean"] * 1, {"mean": state["mean"] + 1}


class FloatState(Stateful):
    def init(self, gram, /):
        return {"mean": 1.0}

    def update(self, gram, state, /):
        return gram[0] * state["mean"], state


class ListState(Stateful):
    def init(self, gram, /):
        return [gram]


class NoStateAfter(Stateful):
    def update(self, gram, state, /):
        return gram[0] * 0 + 1


class FloatAfter(Stateful):
    def update(self, gram, state, /):
        return gram[0] * 0 + 1, {"mean": 1.0}


class WritesState(Stateful):
    def update(self, gram, state, /):
        return gram[0] * 0 + 1, {"mean": state["mean"].add_(1)}


class TwoArguments(Stateful):
    def update(self, gram, /):
        return gram[0]


class Summed:
    def combine(self, rows, /):
        return rows.sum()


class WritesRows:
    def combine(self, rows, /):
        return rows.mul_(2).sum(0)


def in_place(gram):
    return gram.fill_diagonal_(1)[0]


def positional(gram, losses):
    return losses


REFUSED = {
    "a scalar": (torch.sum, ValueError, r"sum must return one weight per loss, shape \(1,\); got shape \(\)"),
    "a layer": (nn.Linear(2, 1), ValueError, r"Linear must return one weight per loss, shape \(2,\); .*\(2, 1\)"),
    "flattened": (lambda gram: gram.flatten(), ValueError, r"one weight per loss; for 1 and 2 losses .*\[1, 4\]"),
    "a list": (lambda gram: [1.0] * len(gram), TypeError, "must return weights as a Tensor; got list"),
    "integers": (lambda gram: torch.ones(len(gram), dtype=torch.int64), TypeError, "floating-point; got torch.int64"),
    "booleans": (lambda gram: gram[0] > 0, TypeError, "floating-point; got torch.bool"),
    "complex": (lambda gram: gram[0] * 1j, TypeError, "floating-point; got torch.complex64"),
    "not finite": (lambda gram: gram[0] / 0, ValueError, r"must return finite weights; got \[inf\]"),
    "in place": (in_place, ValueError, "in_place must leave the Gram matrix that it is given as it is"),
    "positional signals": (positional, TypeError, r"\(gram, /, \*, \.\.\.\) .*keyword-only; it takes \(gram, losses\)"),
    "no parameter": (lambda: None, TypeError, r"must take \(gram, /, \*, \.\.\.\)"),
    "update without state": (TwoArguments(), TypeError, r"must take \(gram, state, /, \*"),
    "a float as state": (FloatState(), TypeError, r"init\(\) of FloatState .*dict name -> tensor; got 'mean': float"),
    "a list as state": (ListState(), TypeError, r"init\(\) of ListState .*dict of tensors; got list"),
    "weights only": (
        NoStateAfter(),
        TypeError,
        r"update\(\) of NoStateAfter must return \(weights, state\); got a",
    ),
    "a float later": (FloatAfter(), TypeError, r"update\(\) of FloatAfter .*got 'mean': float"),
    "state in place": (WritesState(), ValueError, "WritesState must leave the state that it is given"),
    "a sum over coordinates": (Summed(), TypeError, r"combine\(\) of Summed .*shape \(3,\); got shape \(\)"),
    "rows in place": (WritesRows(), ValueError, "WritesRows must leave the rows"),
}


@pytest.mark.parametrize(("rule", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_rule(rule, error, match):
    with pytest.raises(error, match=match):
        wrapped(rule)


@pytest.mark.parametrize("name", ["UPGrad", "MGDA", "PCGrad", "ConFIG", "Mean", "CAGrad", "TrimmedMean"])
def test_an_aggregator_of_torchjd(name):
    aggregation = pytest.importorskip("torchjd.aggregation")
    arguments = {"CAGrad": (0.5,), "TrimmedMean": (1,)}.get(name, ())
    with pytest.raises(TypeError, match=rf"{name} of TorchJD is an aggregator, .*from_torchjd\({name}\("):
        wrapped(getattr(aggregation, name)(*arguments))


def test_a_weighting_of_torchjd_is_a_rule():
    aggregation = pytest.importorskip("torchjd.aggregation")
    assert wrapped(aggregation.UPGradWeighting()).rule is not None


def fixed(gram):
    """For three losses."""
    return torch.tensor([0.2, 0.3, 0.5])


def scored(gram, *, score):
    return gram[0] * 0 + score


RULES = {claims.name: claims.rule for claims in CLAIMS} | {
    "a stateful rule": Stateful(),
    "so many weights": fixed,
    "a signal": scored,
    "a partial": functools.partial(scored, score=1.0),
    "needs other names": Constant({"data": 1.0, "pde": 2.0}),
    "a lambda": lambda gram: 1 / gram.diagonal(),
    "raises": lambda gram: 1 // 0,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_a_rule(rule):
    assert wrapped(rule).rule is rule


def test_what_a_rule_remembers_in_itself_begins_with_the_first_step():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, gram):
            self.calls += 1
            return gram[0] * 0 + torch.rand(())

    state, rule = torch.get_rng_state(), Counting()
    wrapped(rule)
    assert rule.calls == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("inner", [Sum(), FAMO()])
def test_a_wrapper_around_a_wrapper(inner):
    class Prepared(torch.optim.Optimizer):
        """As training frameworks keep an optimizer."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

    for base in (wrapped(inner), Prepared(wrapped(inner))):
        with pytest.raises(TypeError, match=r"base must be an optimizer that is not wrapped yet.*wrap its base"):
            MultiObjectiveGradient(base, Sum())
