"""UPGrad against its definition: projections on the cone in which nothing conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import UPGrad

from ..strategies import EPS, Pair, pairs, regular_sets, structured_sets, weights


def nearest_without_conflict(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The feasible point nearest to the target, among its projections on the complement of every set of rows."""
    best = 0 * target
    for face in range(2 ** len(rows)):
        chosen = rows[[bool(face >> i & 1) for i in range(len(rows))]]
        x = target - np.linalg.pinv(chosen) @ (chosen @ target)
        feasible = np.all(rows @ x >= -1e-12 * np.linalg.norm(rows, axis=1) * np.linalg.norm(target))
        if feasible and np.linalg.norm(x - target) < np.linalg.norm(best - target):
            best = x
    return best


@settings(max_examples=100)
@given(pairs())
def test_two_losses_lose_their_projections_on_each_other(pair: Pair) -> None:
    first, second = pair.rows
    overlap = min(first @ second, 0)
    expected = 0.5 * np.array([1 - overlap / (first @ first), 1 - overlap / (second @ second)])
    w = weights(UPGrad(), pair.rows)
    if w.any():
        # rounding of the inner product, which the shorter gradient's weight sees by the ratio of norms
        norms = np.linalg.norm(pair.rows, axis=1)
        certain = 4 * len(first) ** 0.5 * EPS * norms[::-1] / norms
        assert np.all(np.abs(w - expected) <= 1e-12 * expected + certain)
    else:
        assert pair.angle > np.pi - 1e-6


@settings(max_examples=40)
@given(regular_sets(min_m=3, max_m=6, max_ratio=1e2))
def test_mean_of_the_projections(rows: np.ndarray) -> None:
    expected = np.mean([nearest_without_conflict(rows, g) for g in rows], axis=0)
    found = weights(UPGrad(), rows) @ rows
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.linalg.norm(rows, axis=1).max())


@given(structured_sets(max_m=10), st.integers(0, 2))
def test_preferences_combine_the_projections(rows: np.ndarray, which: int) -> None:
    names = tuple(f"loss {i}" for i in range(len(rows)))
    single = [weights(UPGrad({n: float(n == name) for n in names}), rows, names) @ rows for name in names]
    preference = {name: float((i + which) % 3) for i, name in enumerate(names)}
    found = weights(UPGrad(preference), rows, names) @ rows
    expected = sum(preference[name] * p for name, p in zip(names, single, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@settings(max_examples=30)
@given(structured_sets(max_m=12))
def test_without_conflict_it_is_the_mean(rows: np.ndarray) -> None:
    rows = np.abs(rows)
    active = rows.any(axis=1)
    np.testing.assert_allclose(weights(UPGrad(), rows), active / max(active.sum(), 1), atol=1e-13)


def test_ill_scaled_gradients() -> None:
    """Norms a millionfold apart, where regularising the Gram matrix as a whole loses the small gradient."""
    rows = np.array([[1e6, 0.0], [-1.0, 1.0]])
    d = weights(UPGrad(), rows) @ rows
    np.testing.assert_allclose(d, [0.25e6, 0.25e6 + 0.5], rtol=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"UPGrad needs preferences >= 0 and finite; got -1\.0 for 'a'"):
        UPGrad({"a": -1.0})
    with pytest.raises(ValueError, match="has no preference for the loss 'b'"):
        UPGrad({"a": 1.0})(np.eye(2), names=("a", "b"))
    with pytest.raises(ValueError, match="needs names="):
        UPGrad({"a": 1.0})(np.eye(1))


def test_rules_that_differ_in_preferences_have_hashes() -> None:
    """A mapping has none, which would take it from the rule as well."""
    assert hash(UPGrad({"a": 1.0})) == hash(UPGrad({"a": 2.0}))
    assert UPGrad({"a": 1.0}) != UPGrad({"a": 2.0})
