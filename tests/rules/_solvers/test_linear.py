"""The m x m solvers against NumPy's, and against their definitions where NumPy has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules._solvers.correlations import correlations, inverse_norms
from gradweight.rules._solvers.linear import solve, solve_psd, solved_in_batches

from ...strategies import EPS, SEEDS, regular_sets, structured_sets

Solver: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
both_forms = pytest.mark.parametrize("solver", [solve_psd, solve_psd.array], ids=["host", "array"])


def test_inverse_norms_are_zero_where_a_gradient_is() -> None:
    np.testing.assert_array_equal(inverse_norms(np.diag([4.0, 0.0, 1e300])), [0.5, 0.0, 1e-150])


@settings(deadline=None)
@given(regular_sets(max_ratio=1e12))
def test_correlations(rows: np.ndarray) -> None:
    gram = rows @ rows.T
    cosine = correlations(gram, inverse_norms(gram))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.diagonal(cosine), 1)
    np.testing.assert_allclose(cosine, units @ units.T, rtol=0, atol=16 * EPS)


@settings(deadline=None)
@given(structured_sets(), st.sampled_from([1e-155, 1e-100, 1.0, 1e100, 1e150]))
def test_correlations_stay_within_one(rows: np.ndarray, scale: float) -> None:
    """Also where squared norms are denormal, and where rows are zero."""
    gram = (scale * rows) @ (scale * rows).T
    cosine = correlations(gram, inverse_norms(gram))
    assert np.all(np.abs(cosine) <= 1)
    zero = np.diagonal(gram) == 0
    np.testing.assert_array_equal(np.diagonal(cosine), np.where(zero, 0, 1))
    np.testing.assert_array_equal(cosine[zero], 0)


@both_forms
@settings(deadline=None, max_examples=200)
@given(rows=regular_sets(max_ratio=1.0), seed=SEEDS)
def test_solve_psd_of_regular_systems(solver: Solver, rows: np.ndarray, seed: int) -> None:
    matrix = rows @ rows.T
    rhs = np.random.default_rng(seed).standard_normal(len(rows))
    x = np.linalg.solve(matrix, rhs)
    # both are right to eps times the condition number
    tolerance = 16 * len(rows) * EPS * np.linalg.cond(matrix) * np.linalg.norm(x)
    np.testing.assert_allclose(solver(matrix, rhs), x, rtol=0, atol=tolerance)


@both_forms
@settings(deadline=None, max_examples=200)
@given(rows=structured_sets(), seed=SEEDS)
def test_solve_psd_of_singular_systems(solver: Solver, rows: np.ndarray, seed: int) -> None:
    """x is not unique, what it combines is: rows' x is the minimum-norm solution of ``rows v = rhs``."""
    rhs = rows @ np.random.default_rng(seed).integers(-3, 4, rows.shape[1])
    combined = solver(rows @ rows.T, rhs) @ rows
    expected = np.linalg.lstsq(rows, rhs, rcond=1e-10)[0]
    # integer matrices of this size have singular values of at least 1e-3, which enter squared
    np.testing.assert_allclose(combined, expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max()))


@both_forms
@settings(deadline=None, max_examples=200)
@given(m=st.integers(2, 8), dimension=st.integers(3, 20), power=st.floats(-5, 0), seed=SEEDS)
def test_solve_psd_of_nearly_dependent_systems(solver: Solver, m: int, dimension: int, power: float, seed: int) -> None:
    """The residual is rounding however ill the condition, which takes pivoting: without it, it grows to 1e-10."""
    rng = np.random.default_rng(seed)
    units = rng.standard_normal((m, dimension))
    for i in range(1, m):
        if rng.random() < 0.5:
            units[i] = units[rng.integers(i)] + 10.0**power * rng.standard_normal(dimension)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    matrix, rhs = units @ units.T, units @ rng.standard_normal(dimension)
    x = solver(matrix, rhs)
    # 1e-13 and not 1e-15: a dropped pivot, below m eps, leaves what it would have explained
    residual = units @ (x @ units) - rhs
    assert np.abs(residual).max() <= 1e-13 * (np.abs(x).sum() + np.abs(rhs).max())


def test_solve_psd_ignores_pivots_below_the_scale() -> None:
    """What is left of cancelled numbers of size 1 is rounding, and a solution of it would be noise of size 1e16."""
    rounding = np.array([[2.0, -1.0], [-1.0, 2.0]]) * EPS / 8
    rhs = np.array([1.0, -1.0]) * EPS
    assert np.all(solve_psd(rounding, rhs) != 0)
    np.testing.assert_array_equal(solve_psd(rounding, rhs, scale=1.0), 0)


def test_batches_are_solved_one_by_one() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    matrix, vector = rows @ np.swapaxes(rows, -1, -2), rows[..., 0]
    batched = solve_psd(matrix, vector)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_allclose(batched[i, j], solve_psd(matrix[i, j], vector[i, j]), rtol=1e-12, atol=1e-12)


def test_torch_agrees_with_numpy() -> None:
    rows = np.random.default_rng(1).standard_normal((4, 6))
    matrix, vector = rows @ rows.T, rows[:, 0]
    found = solve_psd(torch.from_numpy(matrix), torch.from_numpy(vector))
    np.testing.assert_allclose(found.numpy(), solve_psd(matrix, vector), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(
    st.sampled_from([(), (1,), (2,), (3,), (16,), (17,), (33,), (257,), (1, 1), (2, 20)]),
    st.sampled_from([1, 3, 16, 17]),
    st.integers(1, 2),
    SEEDS,
)
def test_batches_for_a_device_have_the_same_solutions(batch: tuple[int, ...], n: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.eye(n) + rng.uniform(-1, 1, (*batch, n, n)) / (2 * n)  # diagonally dominant
    rhs = rng.standard_normal((*batch, rows, n))
    expected = solve(matrix, rhs)
    found = solved_in_batches(torch.from_numpy(matrix), torch.from_numpy(rhs).mT).mT
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_jax_agrees_on_every_face(n: int) -> None:
    """Also of gradients of which one depends on the others, with rows of the identity in any place."""
    jax = pytest.importorskip("jax")
    rows = np.random.default_rng(n).standard_normal((n, max(1, n - 1)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    free = np.arange(2**n)[:, None] // 2 ** np.arange(n) % 2
    # regular by far more than rounding errors, since it is x that is compared
    matrix = np.eye(n) + free[:, :, None] * (rows @ rows.T - (1 - 1e-3) * np.eye(n))
    rhs = np.random.default_rng(0).standard_normal((2**n, 2, n)) * free[:, None, :]
    with jax.enable_x64(True):
        found = jax.jit(solve)(matrix, rhs)
    np.testing.assert_allclose(found, solve(matrix, rhs), rtol=0, atol=1e-10)  # condition 1e3 n, |x| up to 1e3
