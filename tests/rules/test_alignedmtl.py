"""AlignedMTL against Algorithm 1 on singular vectors, and against what it promises."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import AlignedMTL

from ..strategies import regular_sets, structured_sets, weights


@settings(max_examples=80)
@given(st.one_of(structured_sets(max_m=10), regular_sets(max_m=10, max_ratio=1e3)))
def test_algorithm_on_the_gradients_themselves(rows: np.ndarray) -> None:
    active = rows[rows.any(axis=1)]
    if len(active):
        left, singular, right = np.linalg.svd(active, full_matrices=False)
        kept = singular > 1e-10 * singular[0]
        aligned = singular[kept].min() * left[:, kept] @ right[kept]
        expected = aligned.mean(axis=0)
        # the smallest eigenvalue comes from the square of its singular value
        error = 1e-13 * singular[0] ** 2 / singular[kept].min()
        np.testing.assert_allclose(weights(AlignedMTL(), rows) @ rows, expected, rtol=0, atol=error)


def test_small_gradients_are_not_taken_for_dependent() -> None:
    rows = np.array([[1e10, 0.0, 0.0], [0.0, 1e-10, 0.0], [1e10, 0.0, 1.0]])
    d = weights(AlignedMTL(), rows[:2]) @ rows[:2]
    np.testing.assert_allclose(d, [0.5e-10, 0.5e-10, 0.0], rtol=1e-12)


def test_zero_gradients_and_opposed_ones() -> None:
    np.testing.assert_allclose(AlignedMTL()(np.diag([4.0, 0.0, 1.0])), [0.25, 0, 0.5])
    assert not AlignedMTL()(np.zeros((3, 3))).any()
    np.testing.assert_allclose(AlignedMTL()(np.array([[4.0, -4.0], [-4.0, 4.0]])), 0, atol=1e-16)


def test_an_opposed_pair_leaves_the_third_its_mean() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(weights(AlignedMTL(), rows), [0, 0, 1 / 3], atol=1e-15)
