"""AngleBisector: Theorem 2.1 for two losses, equal angles for more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradweight.rules import AngleBisector

from ..strategies import EPS, Pair, angle, direction, pairs, regular_sets, size, structured_sets, weights


@settings(deadline=None, max_examples=200)
@given(pairs())
def test_two_losses_half_the_angle_from_each(pair: Pair) -> None:
    d = direction(AngleBisector(), pair.rows)
    # d is the sum of two unit vectors with errors of a few eps, and |d| = 2 cos(angle / 2): its direction is off by
    # eps / cos(angle / 2), which is 3e-8 radian at 180 - 1e-6 degrees and 1e-15 where the angle is not near 180
    tolerance = 16 * EPS / np.cos(pair.angle / 2)
    assert angle(d, pair.rows[0]) == pytest.approx(pair.angle / 2, abs=tolerance)
    assert angle(d, pair.rows[1]) == pytest.approx(pair.angle / 2, abs=tolerance)


@settings(deadline=None)
@given(pairs())
def test_two_losses_weights_are_inverse_norms(pair: Pair) -> None:
    np.testing.assert_allclose(weights(AngleBisector(), pair.rows), 1 / np.linalg.norm(pair.rows, axis=1), rtol=4 * EPS)


@settings(deadline=None, max_examples=200)
@given(regular_sets(min_m=2, max_ratio=1e12))
def test_equal_angles_with_every_gradient(rows: np.ndarray) -> None:
    w = weights(AngleBisector(), rows)
    d = w @ rows
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = units @ d / np.linalg.norm(d)
    # the solver leaves a residual of eps times the terms it adds up; dividing by |d| makes an angle of it
    tolerance = 16 * len(rows) * EPS * size(w, rows) / np.linalg.norm(d)
    np.testing.assert_allclose(cosines, cosines.mean(), rtol=0, atol=tolerance)
    assert cosines.mean() > 0


@settings(deadline=None, max_examples=200)
@given(regular_sets(max_ratio=1e12))
def test_normalisation(rows: np.ndarray) -> None:
    """The coefficients of the unit gradients sum to m, and u_i . d = |d|^2 / m."""
    m = len(rows)
    w = weights(AngleBisector(), rows)
    norms = np.linalg.norm(rows, axis=1)
    d = w @ rows
    rounding = 16 * m * EPS * size(w, rows)
    assert np.sum(w * norms) == pytest.approx(m, abs=rounding)
    np.testing.assert_allclose(rows @ d / norms, d @ d / m, rtol=0, atol=m * rounding)


@settings(deadline=None)
@given(regular_sets(min_m=2, max_m=6))
def test_shortest_affine_combination(rows: np.ndarray) -> None:
    """Against the KKT system of ``min |d|^2, sum a = m``, solved densely."""
    m = len(rows)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    bordered = np.block([[units @ units.T, np.ones((m, 1))], [np.ones((1, m)), np.zeros((1, 1))]])
    assume(np.linalg.cond(bordered) < 1e4)
    a = np.linalg.solve(bordered, np.append(np.zeros(m), m))[:m]
    # two solvers, each right to eps times the condition number
    np.testing.assert_allclose(direction(AngleBisector(), rows), a @ units, rtol=0, atol=1e-10)


@settings(deadline=None)
@given(pairs().filter(lambda pair: 1e-3 < pair.angle < np.pi - 1e-3), st.integers(0, 2))
def test_three_losses_one_of_them_zero_agree_with_two(pair: Pair, zero: int) -> None:
    """The general solver with m = 2 left gives Theorem 2.1."""
    rows = np.insert(pair.rows, zero, 0.0, axis=0)
    w = weights(AngleBisector(), rows)
    assert w[zero] == 0
    # a = (1, 1) solves a system whose one eigenvalue is 1 - cos(angle) >= 5e-7
    np.testing.assert_allclose(np.delete(w, zero), weights(AngleBisector(), pair.rows), rtol=64 * EPS / 5e-7)


@settings(deadline=None, max_examples=200)
@given(structured_sets(min_m=3))
def test_dependent_gradients(rows: np.ndarray) -> None:
    """The direction is the point of the affine hull of the unit gradients nearest to 0, times their number."""
    active = rows[np.any(rows != 0, axis=1)]
    d = direction(AngleBisector(), rows)
    if len(active) == 0:
        np.testing.assert_array_equal(d, 0)
        return
    units = active / np.linalg.norm(active, axis=1, keepdims=True)
    # u_0 less its projection on the differences: unique whatever the rank
    nearest = units[0]
    if len(active) > 1:
        differences = (units[1:] - units[0]).T
        # the unit vectors of multiples differ by rounding, which must not count as a direction
        differences[np.abs(differences) < 4 * EPS] = 0
        nearest = units[0] - differences @ np.linalg.lstsq(differences, units[0], rcond=1e-10)[0]
    # entries in -3..3 and 8 dimensions: singular values of the differences stay above 1e-3 or are exactly 0
    np.testing.assert_allclose(d, len(active) * nearest, rtol=0, atol=1e-8)


@pytest.mark.parametrize("m", [2, 3, 8])
def test_duplicates_count_as_one_direction(m: int) -> None:
    rows = np.tile([3.0, 4.0], (m, 1))
    np.testing.assert_allclose(direction(AngleBisector(), rows), m * np.array([0.6, 0.8]), rtol=8 * EPS)


@settings(deadline=None, max_examples=200)
@given(st.integers(3, 8), st.floats(-10, -1), st.integers(0, 2**32 - 1))
def test_nearly_parallel_gradients(m: int, power: float, seed: int) -> None:
    """A bundle as narrow as float64 can or cannot resolve never gets a direction far from it."""
    rng, width = np.random.default_rng(seed), 10.0**power
    rows = np.eye(20)[0] + width * rng.standard_normal((m, 20)) / np.sqrt(20)
    rows *= 10.0 ** rng.uniform(-3, 3, (m, 1))
    d = direction(AngleBisector(), rows)
    angles = [angle(d, row) for row in rows]
    assert max(angles) < 3 * width
    # cosines are right to eps, differences of gradients are as long as the bundle is wide; below the resolution
    # of sqrt(m eps) what is dropped is no longer than that
    assert max(angles) - min(angles) < min(64 * EPS / width, 2 * np.sqrt(8 * EPS))


def test_nearer_than_the_resolution_counts_as_one() -> None:
    """At 1e-9 radian the two gradients' cosine is 1 in float64; the direction is within that of their bisector."""
    rows = np.array([[1.0, 0.0, 0.0], [1.0, 1e-9, 0.0], [0.0, 0.0, 5.0]])
    d = direction(AngleBisector(), rows)
    np.testing.assert_allclose(d, 3 * np.array([0.5, 0.0, 0.5]), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "rows",
    [
        [[2.0, 1.0], [-2.0, -1.0]],
        [[2.0, 1.0], [-4.0, -2.0]],
        [[2.0, 1.0, 0.0], [-2.0, -1.0, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]],
    ],
)
def test_no_equal_acute_angle_is_no_step(rows: list[list[float]]) -> None:
    """Exactly opposed gradients, or three that have 0 in their affine hull."""
    w = weights(AngleBisector(), np.array(rows))
    assert np.all(np.isfinite(w))
    np.testing.assert_allclose(w @ np.array(rows), 0, rtol=0, atol=16 * EPS)


def test_weight_can_be_negative() -> None:
    """Where one gradient lies nearly between two others, only subtracting it makes the angles equal."""
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.1]])
    w = weights(AngleBisector(), rows)
    assert w[2] < 0
    cosines = rows @ (w @ rows) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-13)


def test_a_duplicate_beside_nearly_dependent_gradients() -> None:
    """An explicit inverse loses two digits in ten here: the pivot of the duplicate is a rounding error."""
    rows = np.zeros((7, 6))
    rows[:3] = [[0, -1, -2, -1, -3, -1], [1, -3, -3, -3, 3, 1], [0, -2, -3, 3, 3, -2]]
    rows[[3, 6]] = [2, 3, 2, 2, -3, 3]
    rows[4] = [1, -2, -2, -1, 3, -1]
    d = direction(AngleBisector(), rows)
    active = rows[[0, 1, 2, 3, 4, 6]]
    cosines = active @ d / np.linalg.norm(active, axis=1) / np.linalg.norm(d)
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-10)
