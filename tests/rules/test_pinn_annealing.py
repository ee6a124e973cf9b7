"""The annealing weights of physics-informed networks."""

import numpy as np
import pytest

from gradweight.rules import PINNAnnealing, PINNNormAnnealing

NAMES = ("boundary", "residual", "data")


def test_maximum_over_mean():
    rows = np.random.default_rng(0).standard_normal((3, 4, 5)) * np.array([1.0, 300.0, 0.01])[:, None, None]
    expected = rows[1] + sum(np.abs(rows[1]).max() / np.abs(rows[i]).mean() * rows[i] for i in (0, 2))
    np.testing.assert_allclose(PINNAnnealing().combine(rows, names=NAMES), expected, rtol=1e-12)


def test_parameter_that_the_residual_does_not_reach_is_trained():
    rows = np.array([[0.5], [0.0], [0.25]])
    np.testing.assert_array_equal(PINNAnnealing().combine(rows, names=NAMES), [0.75])


def test_parameter_that_a_data_loss_does_not_reach():
    rows = np.array([[0.0, 0.0], [1.0, 3.0], [0.5, 0.5]])
    np.testing.assert_array_equal(PINNAnnealing().combine(rows, names=NAMES), [1 + 3, 3 + 3])


def test_norm_weights_are_a_moving_average_from_one():
    rule = PINNNormAnnealing(alpha=0.25)
    state, expected = rule.init(np.eye(3)), np.ones(3)
    for norms in ([1.0, 10.0, 100.0], [2.0, 4.0, 8.0], [1e-4, 1e4, 1.0]):
        norms = np.array(norms)
        expected = 0.75 * expected + 0.25 * norms[1] / norms
        weights, state = rule.update(np.diag(norms**2), state, names=NAMES)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)
        assert weights[1] == 1


def test_averages_wait_for_gradients():
    rule = PINNNormAnnealing(alpha=0.5)
    _, state = rule.update(np.diag([1.0, 9.0, 4.0]), rule.init(np.eye(3)), names=NAMES)
    weights, after = rule.update(np.diag([0.0, 9.0, 4.0]), state, names=NAMES)
    assert weights[0] == 0
    assert after["weights"][0] == state["weights"][0]
    weights, after = rule.update(np.diag([1.0, 0.0, 4.0]), state, names=NAMES)
    np.testing.assert_array_equal(after["weights"], state["weights"])
    np.testing.assert_array_equal(weights, state["weights"] * [1, 0, 1])


def test_errors():
    with pytest.raises(ValueError, match=r"PINNAnnealing needs the loss 'pde'; this step has \['a'\]"):
        PINNAnnealing("pde").combine(np.ones((1, 2)), names=("a",))
    with pytest.raises(ValueError, match="PINNNormAnnealing needs the loss 'pde'"):
        PINNNormAnnealing("pde").update(np.eye(1), {"weights": np.ones(1)}, names=("a",))
