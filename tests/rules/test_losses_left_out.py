"""Losses that are no numbers: of one whose gradient is zero nothing is seen, and no state keeps one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rule import CoordinateRule, Signals, StatefulRule
from gradweight.rules import DWA, GradNorm
from gradweight.rules.claims import CLAIMS, Claims
from gradweight.step import settings as step_settings

from .problems import signals_of

NOT_NUMBERS = (np.nan, np.inf, -np.inf)
READERS = [c for c in CLAIMS if "losses" in Signals.of(c.rule).required]
every_reader = pytest.mark.parametrize("claims", READERS, ids=lambda c: c.name)


def steps(claims: Claims, rows: np.ndarray, values: list[np.ndarray], names: tuple[str, ...]) -> tuple[Any, Any]:
    """Weights and state after steps with these values of the losses."""
    rule, gram, state = claims.rule, rows @ rows.T, {}
    state = rule.init(gram) if isinstance(rule, StatefulRule) else {}
    for step, losses in enumerate(values):
        given = signals_of(claims, rows, losses, step, names)
        if isinstance(rule, StatefulRule):
            weights, state = rule.update(gram, state, **given)
        else:
            weights = rule(gram, **given)  # type: ignore[operator]
    return weights, state


def test_there_are_rules_that_read_losses():
    assert {"GradNorm", "DWA", "FAMO", "GeometricMean", "SmoothTchebycheff"} <= {c.name for c in READERS}
    assert not any(isinstance(c.rule, CoordinateRule) for c in READERS)


@every_reader
@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0.0, -3.0])
def test_the_value_of_a_loss_without_a_gradient_changes_nothing(claims, value):
    rng = np.random.default_rng(0)
    rows, values = rng.standard_normal((3, 4)), list(rng.uniform(0.5, 2, (4, 3)))
    rows[1] = 0
    for losses in values:
        losses[1] = value
    with np.errstate(all="ignore"):
        weights, state = steps(claims, rows, values, ("a", "b", "c"))
    others, _ = steps(claims, rows[[0, 2]], [losses[[0, 2]] for losses in values], ("a", "c"))
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2]], others, rtol=1e-12)
    assert all(np.isfinite(entry).all() for entry in state.values())


@every_reader
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_loss_that_was_no_number_once_is_forgotten(claims, value):
    """Some weights may be NaN on that step, and none are afterwards."""
    rng = np.random.default_rng(1)
    rows, values = rng.standard_normal((3, 4)), list(rng.uniform(0.5, 2, (3, 3)))
    broken = values[0].copy()
    broken[1] = value
    with np.errstate(all="ignore"):
        _, state = steps(claims, rows, [values[0], broken], ("a", "b", "c"))
        assert all(np.isfinite(entry).all() for entry in state.values())
        weights, _ = steps(claims, rows, [values[0], broken, *values[1:]], ("a", "b", "c"))
    assert np.isfinite(weights).all()
    assert weights.any()


def test_gradnorm_measures_by_the_first_loss_above_zero():
    gram = np.eye(2)
    for first in (0.0, -4.0, np.nan, np.inf):
        with np.errstate(all="ignore"):
            _, state = GradNorm(1.0).update(gram, GradNorm().init(gram), losses=np.array([2.0, first]))
        assert state["first_losses"].tolist() == [2.0, 0.0]
        _, state = GradNorm(1.0).update(gram, state, losses=np.array([2.0, 8.0]))
        assert state["first_losses"].tolist() == [2.0, 8.0]
        weights, _ = GradNorm(1.0).update(gram, state, losses=np.array([1.5, 2.0]))
        np.testing.assert_allclose(weights, [1.5, 0.5])


def test_dwa_averages_over_the_steps_on_which_a_loss_was_there():
    rule, gram = DWA(period=2), np.eye(2)
    _, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 1.0]))
    _, state = rule.update(np.diag([1.0, 0.0]), state, losses=np.array([3.0, np.nan]))
    assert state["last"].tolist() == [2.0, 0.0]
    _, state = rule.update(gram, state, losses=np.array([3.0, 5.0]))
    assert state["last"].tolist() == [2.0, 3.0]


def test_gradnorm_with_a_mean_over_an_empty_batch():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), GradNorm())
    empty = (torch.ones(0, 2) * w).sum(1).mean()
    assert opt.backward({"full": w.sum(), "empty": empty}).weights.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"blocks": "layer"}], ids=str)
def test_a_weight_that_is_no_number_reaches_every_head(options, monkeypatch):
    """Else the head of the other loss would take its step, and the trunk would not."""
    trunk, *heads = (nn.Parameter(torch.ones(2)) for _ in range(3))
    named = [("trunk.w", trunk), ("a.w", heads[0]), ("b.w", heads[1])]
    rule = lambda gram: gram[0] * torch.tensor([0, torch.nan]) + 1  # noqa: E731
    monkeypatch.setattr(step_settings, "check_rule_once", lambda rule: None)  # it may come to that later only
    opt = MultiObjectiveGradient(torch.optim.SGD(named, lr=0.1), rule, **options)
    opt.backward({"a": (trunk * heads[0]).sum(), "b": (trunk * heads[1]).sum()})
    assert all(p.grad.isnan().all() for p in (trunk, *heads))
