"""MoDo against the paper's algorithm on vectors, and what it shares with SDMGrad: steps on the simplex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import MGDA, MoDo, SDMGrad
from gradweight.rules._solvers.simplex import simplex_projection

from ..strategies import SEEDS, regular_sets


def sorted_projection(values: np.ndarray) -> np.ndarray:
    """The textbook's: sort, and take the last k for which the k-th stays positive."""
    descending = np.sort(values)[::-1]
    theta = (np.cumsum(descending) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - theta[np.flatnonzero(descending > theta)[-1]], 0)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=16), st.floats(-3, 20))
def test_simplex_projection(values: list[float], power: float) -> None:
    array = np.array(values)
    active = np.ones(len(values), dtype=bool)
    np.testing.assert_allclose(simplex_projection(array, active), sorted_projection(array), atol=1e-13)
    assert simplex_projection(array * 10**power, active).sum() == pytest.approx(1, abs=1e-13)


def test_simplex_projection_leaves_out_what_is_not_active() -> None:
    w = simplex_projection(np.array([0.1, 5.0, 0.3]), np.array([True, False, True]))
    np.testing.assert_allclose(w, [0.4, 0, 0.6])
    assert not simplex_projection(np.ones(3), np.zeros(3, dtype=bool)).any()


@given(regular_sets(min_m=2, max_m=6, max_ratio=10), SEEDS)
def test_steps_of_modo(rows: np.ndarray, seed: int) -> None:
    rule = MoDo(gamma=0.05, rho=0.2)
    other = np.random.default_rng(seed).standard_normal(rows.shape)
    gram, expected = rows @ rows.T, np.full(len(rows), 1 / len(rows))
    state = rule.init(gram)
    for _ in range(3):
        expected = sorted_projection(expected - 0.05 * (rows @ (other.T @ expected) + 0.2 * expected))
        weights, state = rule.update(gram, state, cross=rows @ other.T)
        np.testing.assert_allclose(weights, expected, atol=1e-12)


@settings(max_examples=8)
@given(regular_sets(min_m=2, max_m=4, max_ratio=3))
def test_both_approach_mgda_where_gradients_stand_still(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    gram /= np.trace(gram)
    shortest = MGDA()(gram)
    for rule in (MoDo(gamma=1.0, rho=0.0), SDMGrad(lam=0.0, lr=0.3, iterations=10)):
        state = rule.init(gram)
        for _ in range(200):
            weights, state = rule.update(gram, state)
        assert weights.sum() == pytest.approx(1)
        # w'Gw / 2 after n projected gradient steps of a length up to 1 / trace(G) is within |w_0 - w*|^2 / 2n of the
        # least, and two points of the simplex are at most sqrt(2) apart; the weights themselves may be slower
        assert weights @ gram @ weights / 2 - shortest @ gram @ shortest / 2 <= 1 / 200


def test_a_zero_gradient_is_left_out_and_can_come_back() -> None:
    gram = np.diag([1.0, 0.0, 4.0])
    for rule in (MoDo(), SDMGrad()):
        weights, state = rule.update(gram, rule.init(gram))
        assert weights[1] == 0
        assert weights.sum() == pytest.approx(1)
        weights, _ = rule.update(np.diag([1.0, 0.01, 4.0]), state)
        assert weights.sum() == pytest.approx(1)
        nothing, _ = rule.update(0 * gram, state)
        assert not nothing.any()


@pytest.mark.parametrize(
    ("rule", "arguments", "message"),
    [
        (MoDo, {"gamma": 0.0}, "MoDo needs gamma > 0 and finite; got"),
        (MoDo, {"rho": -1.0}, "MoDo needs rho >= 0 and finite; got"),
    ],
)
def test_errors(rule: type, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(**arguments)
