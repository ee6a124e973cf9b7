"""ConFIG against the pseudo-inverse of the unit gradients."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradweight.rules import ConFIG

from ..strategies import regular_sets, structured_sets, weights


@settings(max_examples=100)
@given(st.one_of(structured_sets(max_m=12), regular_sets(max_m=12)))
def test_equations_of_the_paper(rows: np.ndarray) -> None:
    norms = np.linalg.norm(rows, axis=1)
    units = rows / np.where(norms > 0, norms, 1)[:, None]
    singular = np.linalg.svd(units, compute_uv=False)
    # 1e-6: our zero is sqrt(eps) where the pseudo-inverse's is eps
    assume(np.all((singular > 1e-6) | (singular < 1e-12)))
    best = np.linalg.pinv(units, rcond=1e-9) @ np.ones(len(rows))
    length = np.linalg.norm(best)
    expected = rows.sum(axis=0) @ best / length**2 * best if length > 1e-9 else 0 * best
    found = weights(ConFIG(), rows) @ rows
    # C is the square of the units, and so is its condition number
    tolerance = 1e-14 * norms.sum() / singular[singular > 1e-6].min(initial=1) ** 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * tolerance)


@given(regular_sets(max_m=10, max_ratio=1e6))
def test_equal_cosines_and_length_of_the_projections(rows: np.ndarray) -> None:
    d = weights(ConFIG(), rows) @ rows
    length, norms = np.linalg.norm(d), np.linalg.norm(rows, axis=1)
    cosines = rows @ d / norms / length
    np.testing.assert_allclose(cosines, cosines[0], atol=1e-9)
    np.testing.assert_allclose(length, np.sum(norms * cosines), rtol=1e-9)


def test_unit_gradients_that_cancel_leave_nothing() -> None:
    rows = np.array([[2.0], [-1.0], [-2.0], [2.0], [0.0]])
    assert not weights(ConFIG(), rows).any()
