"""The quadratic programs: optimality conditions, agreement of the two methods, and no conflicts whatever the input."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rule import Rule
from gradweight.rules import MGDA, DualProj, UPGrad
from gradweight.rules._solvers import quadratic
from gradweight.rules._solvers.correlations import correlations, inverse_norms
from gradweight.rules._solvers.rounding import resolved

from ...strategies import EPS, SEEDS, regular_sets, structured_sets, weights


@st.composite
def ill_scaled_sets(draw: st.DrawFn, min_m: int = 1, max_m: int = 16) -> np.ndarray:
    """Gradients of every kind of dependence, exact and near, norms 1e-6 to 1e6 apart from a scale of 1e-30 to 1e30."""
    rows = draw(st.one_of(structured_sets(min_m, max_m), regular_sets(min_m, max_m)))
    rng = np.random.default_rng(draw(SEEDS))
    if draw(st.booleans()):
        # nearly dependent: what is small beside the structure is drawn at random
        rows = np.hstack([rows, 10.0 ** draw(st.floats(-10, 0)) * rng.standard_normal(rows.shape)])
    return rows * 10.0 ** rng.uniform(-6, 6, (len(rows), 1)) * 10.0 ** draw(st.floats(-30, 30))


Minimiser: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
MINIMISER = quadratic.nonnegative_minimiser
both_forms = pytest.mark.parametrize("minimiser", [MINIMISER.host, MINIMISER.array], ids=["host", "array"])


def cosines_of(rows: np.ndarray) -> np.ndarray:
    gram = rows @ rows.T
    return correlations(gram, inverse_norms(gram))


@pytest.mark.parametrize("rule", [MGDA(), UPGrad(), DualProj()], ids=lambda rule: type(rule).__name__)
@settings(max_examples=100)
@given(rows=ill_scaled_sets())
def test_never_conflicts(rule: Rule, rows: np.ndarray) -> None:
    w = weights(rule, rows)
    assert np.all(np.isfinite(w))
    assert np.all(w >= 0)
    direction = w @ rows
    if w.any():
        norms = np.linalg.norm(rows, axis=1)
        cosines = rows @ direction / np.where(norms > 0, norms, 1) / np.linalg.norm(direction)
        assert cosines.min() >= -1e-6
    if len(rows) == 1:
        assert w.any() == rows.any()


@both_forms
@settings(max_examples=60)
@given(rows=structured_sets(max_m=16))
def test_optimality_of_projections(minimiser: Minimiser, rows: np.ndarray) -> None:
    cosine = cosines_of(rows)
    y = minimiser(cosine, cosine)
    assert np.all(y >= 0)
    # y itself may be large where gradients oppose each other, and the residual goes with it; no variable enters for
    # less than 4 n eps
    residual = quadratic.optimality_residual(cosine, cosine, y)
    assert np.all(residual <= 1e-13 * (1 + y.sum(axis=-1)))


@settings(max_examples=40)
@given(ill_scaled_sets(max_m=8))
def test_active_sets_agree_with_the_faces(rows: np.ndarray) -> None:
    cosine = cosines_of(rows)
    faces = MINIMISER.array(cosine, cosine)
    active_sets = quadratic._lawson_hanson(cosine, cosine)
    difference = (faces - active_sets) @ cosine
    # y is not unique, V y is, and A (y - y') = V' V (y - y') sees it, to the square root of the residual where
    # gradients are nearly dependent
    residual = quadratic.optimality_residual(cosine, cosine, np.stack([faces, active_sets])).max()
    size = 1 + np.abs(faces).max() + np.abs(active_sets).max()
    np.testing.assert_allclose(difference, 0, atol=1e-12 * size + 2 * np.sqrt(residual * len(rows) * size))


@both_forms
@pytest.mark.parametrize("m", [3, 8, 9, 16])
@pytest.mark.parametrize("pairs", [1, 4])
def test_nearly_opposed_gradients(minimiser: Minimiser, m: int, pairs: int) -> None:
    """The hardest: y of up to 1e12, and in faces and in active sets alike one solve after the other to get them."""
    rng = np.random.default_rng(7)
    for angle in 10.0 ** np.arange(-6, 0):
        rows = rng.standard_normal((m, m + 5))
        for i in range(1, min(2 * pairs, m), 2):
            rows[i] = -rows[i - 1] + angle * rng.standard_normal(m + 5)
        cosine = cosines_of(rows)
        y = minimiser(cosine, cosine)
        assert np.all(quadratic.optimality_residual(cosine, cosine, y) <= 1e-8 + 1e-13 * y.sum(axis=-1))
        assert np.all(resolved(cosine, np.eye(m) + y, np.eye(m))) or angle < 1e-4


@both_forms
def test_nine_losses_by_brute_force(minimiser: Minimiser) -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((9, 6))
    cosine = cosines_of(rows)
    # every face by least squares
    best = np.zeros_like(cosine)
    value = np.zeros(9)
    for face in range(1, 2**9):
        free = np.flatnonzero([face >> k & 1 for k in range(9)])
        y = np.zeros_like(cosine)
        y[:, free] = -np.linalg.lstsq(cosine[np.ix_(free, free)], cosine[free], rcond=1e-10)[0].T
        energy = np.where((y >= 0).all(axis=1), 0.5 * np.sum((y @ cosine) * y, axis=1) + np.sum(cosine * y, axis=1), 0)
        best, value = np.where((energy < value)[:, None], y, best), np.minimum(energy, value)
    found = minimiser(cosine, cosine)
    np.testing.assert_allclose((found - best) @ cosine, 0, atol=1e-7)


@settings(max_examples=40)
@given(structured_sets(max_m=16), SEEDS)
def test_two_changes_end_at_the_minimum_on_a_face(rows: np.ndarray, seed: int) -> None:
    """Whatever the rank of the face, if the right-hand side is in the range of the matrix."""
    rng = np.random.default_rng(seed)
    cosine = cosines_of(rows)
    free = (rng.random((2, len(rows))) < 0.6).astype(float)
    slack = rng.standard_normal((2, 3, len(rows))) @ cosine
    y = 0 * slack
    for _ in range(2):
        y = y + quadratic.change_on_face(quadratic.regularised(cosine), free, slack + y @ cosine)
    np.testing.assert_array_equal(y * (1 - free[:, None, :]), 0)
    np.testing.assert_allclose((slack + y @ cosine) * free[:, None, :], 0, atol=1e-12 * (1 + np.abs(y).max()))


@pytest.mark.parametrize("angle", [1e-9, 1e-3])
def test_resolved_tells_rounding_from_direction(angle: float) -> None:
    """Two gradients that are opposed but for an angle: the squared length of what one keeps is angle squared."""
    cosine = np.array([[1.0, -np.cos(angle)], [-np.cos(angle), 1.0]])
    left = np.array([[1.0, np.cos(angle)]])
    assert resolved(cosine, left, np.array([[1.0, 0.0]])).tolist() == [angle**2 > 100 * EPS]


def _nearest_in_dual_cone(target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The vector nearest to ``target`` with ``rows @ d >= 0``, straight from the definition.

    It lies inside some face of that cone and is the projection on the face's span: of the projections on all
    spans that are feasible, the nearest.
    """
    best, distance = np.zeros_like(target), np.inf
    for count in range(len(rows) + 1):
        for tight in combinations(range(len(rows)), count):
            normals = rows[list(tight)].T
            d = target - normals @ np.linalg.lstsq(normals, target, rcond=1e-10)[0] if tight else target
            if np.all(rows @ d > -1e-9) and np.linalg.norm(d - target) < distance:
                best, distance = d, np.linalg.norm(d - target)
    return best


@both_forms
@settings(deadline=None, max_examples=100)
@given(rows=structured_sets(min_m=2, max_m=6))
def test_it_projects_on_the_cone(minimiser: Minimiser, rows: np.ndarray) -> None:
    """Moreau: target + rows' y is the projection, y the multipliers."""
    target, rows = rows[0], rows[1:]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units = rows / np.where(norms > 0, norms, 1)
    y = minimiser(units @ units.T, (units @ target)[None])[0]
    assert np.all(y >= 0)
    np.testing.assert_allclose(target + y @ units, _nearest_in_dual_cone(target, units), rtol=0, atol=1e-8)


@pytest.mark.parametrize("m", [32, 128])
@pytest.mark.parametrize("dimension", ["half", "more"])
def test_many_losses_on_the_host(m: int, dimension: str) -> None:
    """Independent ones, by exchanges, and dependent ones, of which 0 is a convex combination, by active sets."""
    cosine = cosines_of(np.random.default_rng(m).standard_normal((m, m + 8 if dimension == "more" else m // 2)))
    linear = cosine[:4]
    y = MINIMISER.host(cosine, linear)
    assert np.all(y >= 0)
    residual = quadratic.optimality_residual(cosine, linear, y)
    assert np.all(residual <= 4 * m * EPS * (1 + y.sum(axis=-1)))
