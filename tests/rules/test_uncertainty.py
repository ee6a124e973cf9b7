"""Uncertainty weighting: the variances follow the gradient flow of the paper's objective."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gradweight.rules import Uncertainty


def test_variances_follow_the_gradient_flow():
    losses, lr = np.array([0.02, 1.0, 40.0]), 0.7
    rule = Uncertainty(lr, initial=3.0)
    weights, state = rule.update(np.eye(3), rule.init(np.eye(3)), losses=losses)
    np.testing.assert_allclose(weights, 1 / 6)
    flow = solve_ivp(lambda _, s: (losses * np.exp(-s) - 1) / 2, (0, lr), np.log([3.0] * 3), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.log(state["variances"]), flow.y[:, -1], rtol=1e-8)


def test_settles_where_the_objective_is_least():
    """d/ds (L e^-s / 2 + s / 2) = 0 at sigma^2 = L, so that the weight is 1 / (2 L)."""
    rule, losses = Uncertainty(lr=0.5), np.array([0.1, 5.0])
    state = rule.init(np.eye(2))
    for _ in range(200):
        weights, state = rule.update(np.eye(2), state, losses=losses)
    np.testing.assert_allclose(weights, 1 / (2 * losses), rtol=1e-12)


def test_zero_gradients_wait_and_negative_losses_stay_finite():
    rule = Uncertainty(lr=100.0)
    state = rule.init(np.eye(2))
    for _ in range(50):
        weights, state = rule.update(np.diag([0.0, 1.0]), state, losses=np.array([9.0, -3.0]))
    assert weights[0] == 0
    assert state["variances"][0] == 1
    assert np.isfinite(weights).all()


def test_errors():
    with pytest.raises(ValueError, match="Uncertainty needs lr > 0"):
        Uncertainty(-1.0)
    with pytest.raises(ValueError, match="Uncertainty needs initial"):
        Uncertainty(initial=0.0)
