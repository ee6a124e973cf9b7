"""GradVac against the algorithm of the paper, written on vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import GradVac, PCGrad
from gradweight.rules._solvers.draws import permutations


def on_vectors(rows, targets, order, beta):
    """Algorithm 1 of arXiv:2010.05874."""
    targets = targets.copy()
    total = np.zeros(rows.shape[1])
    for i, g in enumerate(rows):
        g = g.copy()
        for j in order[i]:
            if j == i:
                continue
            other, target = rows[j], targets[i, j]
            phi = g @ other / np.linalg.norm(g) / np.linalg.norm(other)
            if phi < target:
                g += (
                    np.linalg.norm(g)
                    * (target * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - target**2))
                    / (np.linalg.norm(other) * np.sqrt(1 - target**2))
                    * other
                )
                assert g @ other / np.linalg.norm(g) / np.linalg.norm(other) == pytest.approx(target, abs=1e-9)
            targets[i, j] = (1 - beta) * target + beta * phi
        total += g
    return total, targets


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_is_the_algorithm_on_vectors(seed, m):
    rng = np.random.default_rng(seed)
    rule = GradVac(beta=0.3, seed=5)
    state, targets = rule.init(np.eye(m)), np.zeros((m, m))
    for step in range(3):
        rows = rng.standard_normal((m, m + 2)) * 10 ** rng.uniform(-3, 3, (m, 1))
        expected, targets = on_vectors(rows, targets, permutations(5, step, m, m, rows), 0.3)
        weights, state = rule.update(rows @ rows.T, state, step=step)
        # the sine in the formula loses half of the digits near 0 and 180 degrees
        np.testing.assert_allclose(rows.T @ weights, expected, rtol=0, atol=1e-7 * np.abs(rows).max())
        np.testing.assert_allclose(state["targets"], targets, atol=1e-9)


def test_first_step_is_pcgrad():
    rows = np.random.default_rng(0).standard_normal((4, 3))
    gram = rows @ rows.T
    weights, _ = GradVac(beta=0.0).update(gram, GradVac().init(gram), step=3)
    np.testing.assert_allclose(weights, PCGrad()(gram, step=3), rtol=1e-12)


def test_targets_of_a_gradient_that_has_cancelled_wait():
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    rule, gram = GradVac(beta=0.5), rows @ rows.T
    for step in range(
        8
    ):  # in any order of the other two: the first has cancelled with the second, or has a right angle
        _, state = rule.update(gram, rule.init(gram), step=step)
        np.testing.assert_array_equal(state["targets"][:2, 2], 0)


def test_targets_of_a_zero_gradient_wait():
    rule, gram = GradVac(beta=0.5), np.ones((3, 3))
    _, state = rule.update(gram, rule.init(gram), step=0)
    _, after = rule.update(np.diag([0.0, 1.0, 1.0]), state, step=1)
    np.testing.assert_array_equal(after["targets"][0], state["targets"][0])
    np.testing.assert_array_equal(after["targets"][:, 0], state["targets"][:, 0])
    assert after["targets"][1, 2] < state["targets"][1, 2]


def test_targets_near_one_stay_finite():
    """Equal gradients for long enough put the targets at 1, where the formula divides by zero."""
    rule, state = GradVac(beta=1.0), {"targets": np.ones((2, 2))}
    weights, _ = rule.update(np.array([[1.0, 0.0], [0.0, 1.0]]), state, step=0)
    assert np.isfinite(weights).all()


def test_beta_is_checked():
    with pytest.raises(ValueError, match=r"GradVac needs beta in \[0, 1\]; got 2"):
        GradVac(beta=2)
