"""MGDA against its closed form and its optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import MGDA

from ..strategies import Pair, pairs, regular_sets, structured_sets, weights


@settings(max_examples=100)
@given(pairs())
def test_two_losses(pair: Pair) -> None:
    first, second = pair.rows
    w = weights(MGDA(), pair.rows)
    if w.any():
        difference = second - first
        expected = np.clip(np.array([second @ difference, -first @ difference]) / (difference @ difference), 0, 1)
        # nearly equal gradients leave few digits in the difference, and the direction is the same whatever the weights
        conditioning = max(first @ first, second @ second) / (difference @ difference)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-13 * conditioning)
    else:
        assert pair.angle > np.pi - 1e-6


@settings(max_examples=100)
@given(st.one_of(structured_sets(max_m=12), regular_sets(max_m=12)))
def test_every_loss_falls_by_at_least_the_squared_length(rows: np.ndarray) -> None:
    w = weights(MGDA(), rows)
    assert np.all(w >= 0)
    assert np.all(w[~rows.any(axis=1)] == 0)
    if w.any():
        assert w.sum() == pytest.approx(1, abs=1e-14)
        d = w @ rows
        active = rows[rows.any(axis=1)]
        # the optimality condition of the shortest convex combination, which is sufficient
        assert np.all(active @ d >= d @ d - 1e-9 * np.linalg.norm(active, axis=1) * np.linalg.norm(d))


@given(structured_sets(min_m=1, max_m=7))
def test_stationary_points_give_no_direction(rows: np.ndarray) -> None:
    """With minus their sum among them, 0 is the mean of the gradients."""
    closed = np.vstack([rows, -rows.sum(axis=0)])
    if np.all(closed.any(axis=1)):
        assert not weights(MGDA(), closed).any()


def test_example_of_the_literature() -> None:
    rows = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    np.testing.assert_allclose(weights(MGDA(), rows) @ rows, [0, 1, 1], atol=1e-15)
