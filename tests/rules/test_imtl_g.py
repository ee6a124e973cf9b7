"""IMTL-G against its equations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import IMTLG, AngleBisector

from ..strategies import EPS, SEEDS, regular_sets, size, structured_sets, weights


@settings(max_examples=100)
@given(regular_sets(max_m=12, max_ratio=1e4))
def test_equal_projections_and_weights_that_add_up_to_one(rows: np.ndarray) -> None:
    w = weights(IMTLG(), rows)
    projections = rows @ (w @ rows) / np.linalg.norm(rows, axis=1)
    rounding = 64 * len(rows) * EPS * size(w, rows)
    np.testing.assert_allclose(projections, projections.mean(), rtol=0, atol=rounding)
    assert w.sum() == pytest.approx(1, abs=1e-14 * np.abs(w).sum())


@given(structured_sets(max_m=8))
def test_finite_whatever_the_gradients(rows: np.ndarray) -> None:
    w = weights(IMTLG(), rows)
    assert np.all(np.isfinite(w))
    assert np.all(w[~rows.any(axis=1)] == 0)
    assert w.sum() == pytest.approx(1, abs=1e-12 * np.abs(w).sum()) or not w.any()


def test_it_can_point_uphill() -> None:
    """The docstring's warning: the third gradient lies between the others, and is the smallest."""
    rows = np.array([[1.0, 0.0, 0.1], [0.0, 1.0, 0.1], [0.01, 0.01, 0.0]])
    assert weights(AngleBisector(), rows)[2] < 0
    assert np.all(rows @ (weights(AngleBisector(), rows) @ rows) > 0)
    assert np.all(rows @ (weights(IMTLG(), rows) @ rows) < 0)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4).filter(any), min_size=2, max_size=4),
    st.integers(2, 5),
    SEEDS,
)
def test_of_dependent_gradients_none_is_preferred(entries: list[list[int]], ratio: int, seed: int) -> None:
    """Parallel gradients add as much each, and the order of the losses decides nothing."""
    rows = np.array([*entries, [ratio * x for x in entries[0]]], dtype=float)
    w = weights(IMTLG(), rows)
    scale = max(size(w, rows), 1e-300)
    # where weights nearly add up to 0 their errors are divided by that sum: a few digits fewer than the bisector has
    assert w[0] * np.linalg.norm(rows[0]) == pytest.approx(w[-1] * np.linalg.norm(rows[-1]), abs=1e-9 * scale)
    order = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_allclose(weights(IMTLG(), rows[order]) @ rows[order], w @ rows, rtol=0, atol=1e-9 * scale)
