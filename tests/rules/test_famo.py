"""FAMO against Algorithm 1, with the derivative of the softmax by finite differences."""

import numpy as np
import pytest

from gradweight.rules import FAMO


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def test_is_the_algorithm_of_the_paper():
    rng = np.random.default_rng(0)
    rule, gram = FAMO(beta=0.7, gamma=0.1, minimum=-1.0), np.eye(3)
    state, logits, previous = rule.init(gram), np.zeros(3), None
    for _ in range(4):
        losses = rng.uniform(-0.5, 4, 3)
        log_losses = np.log(losses + 1)
        if previous is not None:
            delta = previous - log_losses
            jacobian = np.stack([(softmax(logits + e) - softmax(logits - e)) / 2e-6 for e in 1e-6 * np.eye(3)])
            logits = logits - 0.7 * (jacobian @ delta + 0.1 * logits)
        previous = log_losses
        z = softmax(logits) / (losses + 1)
        weights, state = rule.update(gram, state, losses=losses)
        # finite differences
        np.testing.assert_allclose(weights, z / z.sum(), rtol=1e-7)


def test_losses_fall_at_one_relative_rate():
    """Two quadratic losses of curvatures 1 and 100: gradient descent lowers the logarithms side by side."""
    curvature, x, rule = np.array([1.0, 100.0]), np.array([1.0, 1.0]), FAMO(beta=0.5)
    state, history = rule.init(np.eye(2)), []
    for _ in range(300):
        losses = curvature * x**2
        gradients = np.diag(2 * curvature * x)
        weights, state = rule.update(gradients @ gradients.T, state, losses=losses)
        x = x - 2e-3 * gradients.T @ weights
        history.append(np.log(losses))
    decrease = history[0] - history[-1]
    assert decrease.min() > 0.5
    assert decrease.max() / decrease.min() < 1.2


def test_losses_at_the_minimum_stay_finite():
    weights, _ = FAMO().update(np.eye(2), FAMO().init(np.eye(2)), losses=np.array([0.0, 1.0]))
    assert np.isfinite(weights).all()


def test_logits_do_not_move_by_a_loss_that_is_not_finite():
    rule, gram = FAMO(beta=0.5, gamma=0.0), np.eye(2)
    _, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 4.0]))
    _, after = rule.update(gram, state, losses=np.array([np.inf, 4.0]))
    np.testing.assert_array_equal(after["logits"], state["logits"])
    np.testing.assert_array_equal(after["log_losses"], state["log_losses"])


def test_errors():
    with pytest.raises(ValueError, match="FAMO needs beta >= 0 and finite; got -1"):
        FAMO(-1)
