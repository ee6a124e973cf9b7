"""Krum against its definition on vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import Krum


def on_vectors(rows, byzantine, select):
    n = len(rows)
    distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    scores = [np.sort(np.delete(distances[i], i))[: n - byzantine - 2].sum() for i in range(n)]
    return rows[np.argsort(scores, kind="stable")[:select]].mean(0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_is_the_definition_on_vectors(seed, byzantine, select, more):
    rows = np.random.default_rng(seed).standard_normal((byzantine + 4 + more, 6))
    weights = Krum(byzantine, select)(rows @ rows.T)
    np.testing.assert_allclose(rows.T @ weights, on_vectors(rows, byzantine, select), atol=1e-12)


def test_corrupt_gradients_are_not_followed():
    rng = np.random.default_rng(0)
    rows = np.ones((8, 20)) + 0.1 * rng.standard_normal((8, 20))
    rows[:3] = 1e3 * rng.standard_normal((3, 20))
    weights = Krum(byzantine=3, select=2)(rows @ rows.T)
    assert np.all(weights[:3] == 0)
    assert weights.sum() == pytest.approx(1)


def test_a_tie_is_shared():
    """With one neighbour each, the closest pair has one score: neither may win by its place in the list."""
    rows = np.array([[9.0, 0.0], [1.0, 0.0], [0.0, 7.0], [1.1, 0.0]])
    np.testing.assert_allclose(Krum(byzantine=1)(rows @ rows.T), [0, 0.5, 0, 0.5])


def test_fewer_gradients_than_places():
    np.testing.assert_allclose(Krum(0, select=3)(np.diag([1.0, 0.0, 2.0])), [0.5, 0, 0.5])


def test_errors():
    with pytest.raises(ValueError, match=r"Krum\(byzantine=2, select=1\) needs 5 losses; got 4"):
        Krum(2)(np.eye(4))
    with pytest.raises(ValueError, match="Krum needs byzantine >= 0; got -1"):
        Krum(-1)
