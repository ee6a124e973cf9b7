"""What a rule must not return is told apart, and everything stays as it was; and what is no rule is refused."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import Constant, Sum

from .setting import Setting, refused

ANSWERS = {
    "too many": (lambda w: torch.cat([w, w]), ValueError, r"Averaging must return one weight .*\(2,\).*\(4,\)"),
    "a matrix": (lambda w: w[:, None] * w, ValueError, r"Averaging must return one weight .*\(2,\).*\(2, 2\)"),
    "one number": (lambda w: w.sum(), ValueError, r"Averaging must return one weight .*\(2,\).*\(\)"),
    "a list": (lambda w: w.tolist(), TypeError, "Averaging must return weights as a Tensor; got list"),
    "an array": (lambda w: w.numpy(), TypeError, "Averaging must return weights as a Tensor; got ndarray"),
    "nothing": (lambda w: None, TypeError, "Averaging must return weights as a Tensor; got NoneType"),
    "an exception": (lambda w: 1 / 0, ZeroDivisionError, "division"),
}


@pytest.mark.parametrize(("answer", "error", "match"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_what_a_rule_returns(answer, error, match, engine):
    """Found only once all gradients are there, with the second micro-batch's rows already added up."""
    setting, twin = (Setting(options={"engine": engine}) for _ in range(2))
    losses = setting.losses()
    setting.rule.answer = answer
    with refused(setting, twin, error, match):
        try:
            setting.opt.backward(losses)
        finally:
            setting.rule.answer = lambda weights: weights


def test_a_coordinate_rule_that_returns_another_shape():
    class Flat:
        flat = False

        def combine(self, rows, /):
            # fails on the last parameter only: the others must not have been written by then
            return rows.sum(0).flatten()[:-1] if self.flat and rows.shape[-1] == 2 else rows.sum(0)

    setting, twin = (Setting(Flat()) for _ in range(2))
    losses = setting.losses()
    setting.rule.flat = True
    with refused(setting, twin, ValueError, r"must return the direction of a parameter, shape \(2,\).*\(1,\)"):
        try:
            setting.opt.backward(losses)
        finally:
            setting.rule.flat = False


def test_a_constant_without_a_weight_for_a_loss():
    setting, twin = (Setting(Constant({"real": 1.0, "fake": 2.0})) for _ in range(2))
    setting.opt.zero_grad()
    twin.opt.zero_grad()
    losses = {"real": setting.losses()["real"], "other": setting.losses()["fake"]}
    with refused(setting, twin, ValueError, r"Constant has no weight for the loss 'other'; it has \['fake', 'real'\]"):
        setting.opt.backward(losses)


class NotARule:
    pass


def _sgd():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


CONSTRUCTIONS = {
    "SparseAdam": (
        lambda: (torch.optim.SparseAdam([nn.Parameter(torch.ones(1))]), Sum()),
        TypeError,
        "dense gradients.*got SparseAdam: use Adam",
    ),
    "LBFGS": (lambda: (torch.optim.LBFGS([nn.Parameter(torch.ones(1))]), Sum()), TypeError, "no closure; got LBFGS"),
    "no optimizer": (
        lambda: ([nn.Parameter(torch.ones(1))], Sum()),
        TypeError,
        "or several in a list; got a Parameter",
    ),
    "a class": (lambda: (torch.optim.SGD, Sum()), TypeError, "or several in a list; got the class SGD"),
    "a rule's class": (lambda: (_sgd(), Sum), TypeError, r"instance; got the class Sum: write Sum\(\)"),
    "no rule": (lambda: (_sgd(), NotARule()), TypeError, "a rule must be callable .*an instance of NotARule"),
    "no rule at all": (lambda: (_sgd(), None), TypeError, "a rule must be callable .*NoneType"),
}


@pytest.mark.parametrize(("make", "error", "match"), CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_construction(make, error, match):
    base, rule = make()
    with pytest.raises(error, match=match):
        MultiObjectiveGradient(base, rule)


def test_an_unknown_engine():
    with pytest.raises(
        ValueError,
        match=r"engine must be one of \['auto', 'autograd', 'batched', 'func', 'gram', 'hooks'\]; got 'vmap'",
    ):
        MultiObjectiveGradient(_sgd(), Sum(), engine="vmap")


def test_no_parameter_that_requires_a_gradient():
    base = torch.optim.SGD([torch.ones(2)], lr=0.1)
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="needs a parameter that requires a gradient"):
        MultiObjectiveGradient(base, Sum()).backward({"a": w.sum()})
