"""FairGrad against its equation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import DualProj, FairGrad, NashMTL

from ..strategies import EPS, regular_sets, structured_sets, weights

ALPHAS = st.one_of(st.sampled_from([0.05, 0.1, 0.5, 1.0, 2.0]), st.floats(0.05, 10))


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
        # it ends where what is left changes the objective by 1e-18 of it: a loss with next to no share of it may be off
        shares = w * np.abs(g @ w)
        unimportant = 1e-9 / np.sqrt(np.maximum(shares / shares.sum(), 1e-300))
        assert np.all(np.abs(g @ w * w ** (1 / alpha) - 1) <= 1e-8 + certain + unimportant)


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


def test_alpha_zero_is_the_sum_and_just_above_it_no_gain_is_negative() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [-3.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(weights(FairGrad(0), rows), [1, 1, 1, 0])
    assert (rows @ rows.sum(axis=0)).min() < -1
    # the sum's projection: what DualProj makes of it
    direction = weights(FairGrad(0.05), rows) @ rows
    projected = 3 * weights(DualProj(), rows) @ rows
    # gains of 1.49 and 0.74 to the power -0.05 are within 2 % of the 1 that the weights tend to
    np.testing.assert_allclose(direction, projected, atol=0.03)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.15])
@pytest.mark.parametrize("m", [2, 3, 8, 12])
def test_both_forms_below_a_fifth(alpha: float, m: int) -> None:
    rng = np.random.default_rng(m)
    for _ in range(5):
        rows = rng.standard_normal((m, m + 1)) * 10.0 ** rng.uniform(-3, 3, (m, 1))
        gram = rows @ rows.T
        for w in (FairGrad(alpha)(gram), FairGrad(alpha)(torch.tensor(gram)).numpy()):
            assert np.all(w > 0)
            # the second term is what rounding of the entries of G leaves certain of the gains
            gains, certain = gram @ w, 10 * m * EPS * (np.abs(gram) @ w)
            assert np.all(np.abs(gains - w ** (-1 / alpha)) <= 1e-8 * gains + certain)


@pytest.mark.parametrize("alpha", [11.0, -0.1, float("nan")])
def test_errors(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"FairGrad needs alpha in \[0, 10\]; got"):
        FairGrad(alpha)


def test_between_the_sum_and_what_floating_point_can_do() -> None:
    with pytest.raises(ValueError, match=r"FairGrad needs alpha 0 \(the sum\), or in \[0\.05, 10\]; got 0\.01"):
        FairGrad(0.01)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 2.0, 5.0])
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
