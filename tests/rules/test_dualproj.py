"""DualProj against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from gradweight.rules import DualProj

from ..strategies import Pair, pairs, regular_sets, structured_sets, weights
from .test_upgrad import nearest_without_conflict


@settings(max_examples=100)
@given(pairs())
def test_two_losses(pair: Pair) -> None:
    mean = pair.rows.mean(axis=0)
    expected = np.full(2, 0.5) - np.minimum(pair.rows @ mean, 0) / np.sum(pair.rows**2, axis=1)
    w = weights(DualProj(), pair.rows)
    if w.any():
        # rounding of the mean's inner product with the smaller gradient, which the larger one dominates
        norms = np.linalg.norm(pair.rows, axis=1)
        np.testing.assert_allclose((w - expected) * norms, 0, atol=1e-14 * norms.max())
    else:
        ratio = np.linalg.norm(pair.rows, axis=1)
        assert pair.sine < 1e-5 or ratio.max() > 1e5 * ratio.min()


@settings(max_examples=40)
@given(regular_sets(min_m=3, max_m=6, max_ratio=1e2))
def test_nearest_direction_without_conflict(rows: np.ndarray) -> None:
    expected = nearest_without_conflict(rows, rows.mean(axis=0))
    found = weights(DualProj(), rows) @ rows
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.linalg.norm(rows, axis=1).max())


@settings(max_examples=60)
@given(structured_sets(max_m=12))
def test_only_what_binds_is_added(rows: np.ndarray) -> None:
    """Complementarity: a loss gets more than the mean's weight only if the direction leaves it unchanged."""
    w = weights(DualProj(), rows)
    if w.any():
        active = rows.any(axis=1)
        more = (w - 1 / active.sum()) * np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose((rows @ (w @ rows)) * more * active, 0, atol=1e-11 * np.sum(rows**2))


def test_preference() -> None:
    rule = DualProj({"a": 0.0, "b": 2.0})
    np.testing.assert_allclose(rule(np.diag([4.0, 9.0]), names=("a", "b")), [0, 2])
    np.testing.assert_allclose(rule(np.array([[4.0, -2.0], [-2.0, 9.0]]), names=("a", "b")), [1, 2])
    with pytest.raises(ValueError, match="DualProj needs preferences >= 0 and finite; got nan for 'a'"):
        DualProj({"a": float("nan")})
