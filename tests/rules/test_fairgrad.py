"""FairGrad against its equation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import FairGrad, NashMTL

from ..strategies import EPS, regular_sets, structured_sets, weights

ALPHAS = st.one_of(st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.2, 10))


@settings(max_examples=80)
@given(st.one_of(structured_sets(max_m=10), regular_sets(max_m=16, max_ratio=1e6)), ALPHAS)
def test_equation(rows: np.ndarray, alpha: float) -> None:
    w = weights(FairGrad(alpha), rows)
    active = rows.any(axis=1)
    assert np.all(w[~active] == 0)
    if w.any():
        g, w = rows[active] @ rows[active].T, w[active]
        # relative; the second term is what rounding of the entries of G leaves certain of the equation
        certain = 10 * len(w) * EPS * (np.abs(g) @ w) * w ** (1 / alpha)
        assert np.all(np.abs(g @ w * w ** (1 / alpha) - 1) <= 1e-8 + certain)


@given(regular_sets(max_m=8, max_ratio=1e6), ALPHAS)
def test_independent_gradients_always_have_a_solution(rows: np.ndarray, alpha: float) -> None:
    assert np.all(weights(FairGrad(alpha), rows) > 0)


@given(regular_sets(max_m=8, max_ratio=1e3))
def test_alpha_one_is_nash_and_no_special_case(rows: np.ndarray) -> None:
    at_one = weights(FairGrad(), rows)
    np.testing.assert_array_equal(at_one, weights(NashMTL(), rows))
    # one millionth away from it, where the general iteration runs
    np.testing.assert_allclose(weights(FairGrad(1 + 1e-6), rows), at_one, rtol=1e-3)


def test_large_alpha_equalises_gains() -> None:
    rows = np.array([[3.0, 0.0], [0.0, 0.1]])
    gains = [rows @ (weights(FairGrad(alpha), rows) @ rows) for alpha in (0.5, 1.0, 10.0)]
    ratios = [g[0] / g[1] for g in gains]
    assert ratios[0] > ratios[1] > ratios[2] > 1


@pytest.mark.parametrize("alpha", [0.0, 0.1, 11.0, float("nan")])
def test_errors(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"FairGrad needs alpha in \[0\.2, 10\]; got"):
        FairGrad(alpha)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 2.0, 5.0])
def test_nearly_opposed_gradients(alpha: float) -> None:
    rng = np.random.default_rng(3)
    for opposed_by in 10.0 ** np.arange(-5, 0):
        rows = rng.standard_normal((8, 13))
        rows[1] = -rows[0] + opposed_by * rng.standard_normal(13)
        rows *= 10.0 ** rng.uniform(-2, 2, (8, 1))
        w = weights(FairGrad(alpha), rows)
        gram = rows @ rows.T
        certain = 80 * EPS * (np.abs(gram) @ w) * w ** (1 / alpha)
        assert np.all(np.abs(gram @ w * w ** (1 / alpha) - 1) <= 1e-8 + certain)
