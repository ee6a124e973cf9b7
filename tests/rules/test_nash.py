"""NashMTL against its equation, and against the other rules that are the angle bisector at m = 2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import IMTLG, ConFIG, FairGrad, NashMTL

from ..strategies import EPS, Pair, angle, pairs, regular_sets, structured_sets, weights


@settings(max_examples=60)
@given(st.one_of(structured_sets(min_m=2, max_m=16), regular_sets(min_m=2, max_m=16, max_ratio=1e12)))
def test_equation(rows: np.ndarray) -> None:
    w = weights(NashMTL(), rows)
    active = rows.any(axis=1)
    assert np.all(w[~active] == 0)
    if w.any():
        g, w = rows[active] @ rows[active].T, w[active]
        assert np.all(w > 0)
        # relative; the second term is what rounding of the entries of G leaves certain of the equation
        certain = 10 * len(w) * EPS * (np.abs(g) @ w * w).max()
        np.testing.assert_allclose(g @ w * w, 1, rtol=0, atol=1e-8 + certain)
        assert np.linalg.norm(w @ rows[active]) == pytest.approx(np.sqrt(len(w)), rel=1e-8 + certain)


@given(regular_sets(min_m=1, max_m=16, max_ratio=1e12))
def test_independent_gradients_always_have_a_solution(rows: np.ndarray) -> None:
    assert np.all(weights(NashMTL(), rows) > 0)


@given(structured_sets(min_m=1, max_m=7))
def test_stationary_points_have_none(rows: np.ndarray) -> None:
    closed = np.vstack([rows, -rows.sum(axis=0)])
    if np.all(closed.any(axis=1)):
        assert not weights(NashMTL(), closed).any()


@settings(max_examples=100)
@given(pairs())
def test_the_bisector_under_four_names(pair: Pair) -> None:
    """At m = 2 Nash, FairGrad(1), IMTL-G and ConFIG differ in length only: y = a (1, 1) along the unit gradients."""
    norms = np.linalg.norm(pair.rows, axis=1)
    cosine = np.cos(pair.angle / 2)
    lengths = {
        NashMTL(): np.sqrt(2),
        FairGrad(): np.sqrt(2),
        IMTLG(): 2 * cosine / (1 / norms).sum(),
        ConFIG(): norms.sum() * cosine,
    }
    for rule, length in lengths.items():
        w = weights(rule, pair.rows)
        if pair.angle > np.pi - 1e-6 and not w.any():
            assert isinstance(rule, NashMTL | FairGrad)
            continue
        y = w * norms
        # the last one solves an equation, whose cosines are right to eps
        assert y[0] == pytest.approx(y[1], rel=1e-8 + 1e3 * EPS / cosine**2)
        d = w @ pair.rows
        # 1 + cos from a Gram matrix is off by eps, and cos(angle/2)**2 is half of that
        assert np.linalg.norm(d) == pytest.approx(length, rel=1e-8 + 1e3 * EPS / cosine**2)
        if isinstance(rule, NashMTL | IMTLG | ConFIG):
            assert angle(d, pair.rows[0]) == pytest.approx(pair.angle / 2, abs=1e-14 / cosine)


@pytest.mark.parametrize("m", [3, 8, 16])
def test_nearly_opposed_gradients(m: int) -> None:
    """The slowest to converge: y grows to 1/angle, which is what the last of the Newton steps are for."""
    rng = np.random.default_rng(3)
    for opposed_by in 10.0 ** np.arange(-6, 0):
        rows = rng.standard_normal((m, m + 5))
        rows[1] = -rows[0] + opposed_by * rng.standard_normal(m + 5)
        w = weights(NashMTL(), rows)
        gram = rows @ rows.T
        certain = 10 * m * EPS * (np.abs(gram) @ w * w).max()
        np.testing.assert_allclose(gram @ w * w, 1, rtol=0, atol=1e-8 + certain)
