"""IMTL-L: the scales follow the gradient flow of the paper's objective."""

import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from gradweight.rules import IMTLL, Uncertainty


def test_scales_follow_the_gradient_flow():
    losses, lr = np.array([0.02, 1.0, 40.0]), 0.4
    rule = IMTLL(lr, initial=2.0)
    weights, _ = rule.update(np.eye(3), rule.init(np.eye(3)), losses=losses)
    flow = solve_ivp(lambda _, s: 1 - losses * np.exp(s), (0, lr), np.log([0.5] * 3), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.log(weights), flow.y[:, -1], rtol=1e-8)


def test_every_scaled_loss_settles_at_one():
    losses = np.array([0.02, 40.0])
    weights, _ = IMTLL(math.inf).update(np.eye(2), IMTLL().init(np.eye(2)), losses=losses)
    np.testing.assert_allclose(weights * losses, 1)


def test_is_uncertainty_weighting_at_twice_the_rate():
    one, other = IMTLL(0.1), Uncertainty(0.2)
    a, b = one.init(np.eye(2)), other.init(np.eye(2))
    for losses in ([1.0, 9.0], [0.5, 4.0], [0.25, 2.0]):
        weights, a = one.update(np.eye(2), a, losses=np.array(losses))
        _, b = other.update(np.eye(2), b, losses=np.array(losses))
        np.testing.assert_allclose(weights, 1 / b["variances"])


def test_a_loss_that_stays_at_zero_stays_finite():
    rule, state = IMTLL(math.inf), IMTLL().init(np.eye(2))
    weights, _ = rule.update(np.eye(2), state, losses=np.array([0.0, -2.0]))
    assert np.isfinite(weights).all()


def test_errors():
    with pytest.raises(ValueError, match="IMTLL needs lr > 0; got 0"):
        IMTLL(0)
