"""Jacobi's method against its definition, entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules._solvers.eigen import eigh
from gradweight.rules._solvers.rounding import resolved_eigenvalues

from ...strategies import regular_sets, structured_sets

Decompose: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# not `eigh.host` itself, which leaves some to the array code
both_forms = pytest.mark.parametrize("decompose", [eigh, eigh.array], ids=["host", "array"])


@both_forms
@settings(max_examples=60)
@given(rows=st.one_of(regular_sets(max_m=16, max_ratio=1e8), structured_sets(max_m=16)))
def test_decomposition_to_the_last_digits_of_every_entry(decompose: Decompose, rows: np.ndarray) -> None:
    gram = rows @ rows.T
    eigenvalues, vectors = decompose(gram)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(rows)), atol=1e-13)
    error = np.abs((vectors * eigenvalues) @ vectors.T - gram)
    # relative to |g_i| |g_j|, so the small gradients count as much as the large ones
    # LAPACK's errors are those of the largest numbers, which may be 1e4 times the others
    digits = 1e-13 if decompose is eigh.array else 1e-11
    assert np.all(error <= digits * norms[:, None] * norms)


@both_forms
@given(rows=structured_sets(max_m=8))
def test_rank(decompose: Decompose, rows: np.ndarray) -> None:
    gram = rows @ rows.T
    norms = np.linalg.norm(rows, axis=1)
    scales = 10.0 ** np.linspace(-5, 5, len(rows))
    eigenvalues, vectors = decompose(gram * scales[:, None] * scales)
    assert resolved_eigenvalues(eigenvalues, vectors, norms * scales).sum() == np.linalg.matrix_rank(rows)


def test_entries_of_very_different_size_do_not_overflow() -> None:
    eigenvalues, _ = eigh(np.array([[1.0, 1e-300, 0.0], [1e-300, 1e-200, 1e-310], [0.0, 1e-310, 1e-300]]))
    np.testing.assert_allclose(np.sort(eigenvalues), [1e-300, 1e-200, 1.0])
