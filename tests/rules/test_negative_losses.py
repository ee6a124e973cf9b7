"""Rules that are defined for positive losses: a negative one is no reason to stop training, or to leave it out."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import FAMO, GeometricMean

RULES = pytest.mark.parametrize("rule", [GeometricMean(), FAMO(), FAMO(minimum=-0.5)], ids=str)


def step(rule, values):
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), rule)
    seen = opt.backward({str(i): w.sum() - 2 + value for i, value in enumerate(values)})
    return seen.weights, w.grad


@RULES
@pytest.mark.parametrize("values", [(-1.0, -2.0), (1.0, -2.0), (-3.0,)])
def test_a_negative_loss_is_broken_input(rule, values):
    weights, grad = step(rule, values)
    assert weights.isnan().all()
    assert grad.isnan().all()  # so that GradScaler, or one's own check, skips the step


@RULES
def test_others_stay_as_they_were(rule):
    weights, grad = step(rule, (1.0, 2.0, 4.0))
    assert (weights > 0).all()
    assert grad.isfinite().all()


def test_a_lower_bound_that_holds():
    weights, _ = step(FAMO(minimum=-3.0), (-1.0, -2.0))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 2 / 3]))  # as losses 2 and 1 above it
