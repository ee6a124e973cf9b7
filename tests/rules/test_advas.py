"""AdvAs: Eq. 11, lambda = min(1, |g_orig| / |g_AdvAs|)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import AdvAs

from ..strategies import EPS, Pair, pairs, regular_sets, structured_sets, weights

NAMES = ("advas", *"bcdefgh")


@settings(deadline=None)
@given(pairs(), st.booleans())
def test_equation_eleven(pair: Pair, penalty_first: bool) -> None:
    names = ("advas", "own") if penalty_first else ("own", "advas")
    penalty = names.index("advas")
    lengths = np.linalg.norm(pair.rows, axis=1)
    expected = np.ones(2)
    expected[penalty] = min(1.0, lengths[1 - penalty] / lengths[penalty])
    np.testing.assert_allclose(weights(AdvAs(), pair.rows, names), expected, rtol=4 * EPS)


@settings(deadline=None, max_examples=200)
@given(st.one_of(regular_sets(min_m=2, max_ratio=1e12), structured_sets(min_m=2)))
def test_the_penalty_never_dominates(rows: np.ndarray) -> None:
    """0 <= lambda <= 1 and |lambda g_AdvAs| <= |g_orig|, with g_orig the gradient of the sum of the others."""
    w = weights(AdvAs(), rows, NAMES[: len(rows)])
    penalty, original = rows[0], rows[1:].sum(0)
    assert 0 <= w[0] <= 1
    np.testing.assert_array_equal(w[1:], np.any(rows[1:] != 0, axis=1))
    if np.any(rows[1:] != 0):
        # |g_orig|^2 comes out of a sum of Gram entries, with an error of eps of their size, which is not the size of
        # the sum where the others cancel
        error = 16 * len(rows) * EPS * np.sum(np.linalg.norm(rows[1:], axis=1)) ** 2
        assert w[0] ** 2 * (penalty @ penalty) <= original @ original + error
        if np.any(penalty != 0):
            expected = min(1.0, original @ original / (penalty @ penalty))
            assert w[0] ** 2 == pytest.approx(expected, abs=error / (penalty @ penalty))


def test_all_but_the_penalty_zero() -> None:
    """Nothing to be dominated: the penalty is followed as it is, for 0 would freeze training."""
    np.testing.assert_array_equal(AdvAs()(np.diag([9.0, 0.0, 0.0]), names=NAMES[:3]), [1, 0, 0])


def test_a_zero_penalty_is_left_out() -> None:
    np.testing.assert_array_equal(AdvAs()(np.diag([0.0, 4.0, 9.0]), names=NAMES[:3]), [0, 1, 1])


@pytest.mark.parametrize(
    ("gram", "expected"), [([9.0, 4.0, 0.0], [1, 1, 0]), ([9.0, 4.0, 1.0], [1, 1, 1]), ([5.0], [1]), ([0.0], [0])]
)
def test_a_step_without_the_penalty(gram: list[float], expected: list[float]) -> None:
    names = ("own", "other", "third")[: len(gram)]
    np.testing.assert_array_equal(AdvAs(every_step=False)(np.diag(gram), names=names), expected)


def test_the_penalty_alone() -> None:
    np.testing.assert_array_equal(AdvAs()(np.array([[9.0]]), names=("advas",)), [1])
    np.testing.assert_array_equal(AdvAs()(np.array([[0.0]]), names=("advas",)), [0])


@settings(deadline=None)
@given(regular_sets())
def test_without_names_the_last_row_is_the_penalty(rows: np.ndarray) -> None:
    names = (*(f"own {i}" for i in range(len(rows) - 1)), "assist")
    np.testing.assert_array_equal(weights(AdvAs(), rows), weights(AdvAs(penalty="assist"), rows, names))


@pytest.mark.parametrize("longer", ["own", "advas"])
def test_exactly_opposed(longer: str) -> None:
    """With the penalty the longer one nothing is left; else the loss's own gradient wins."""
    rows = np.array([[3.0, 4.0], [-6.0, -8.0]]) if longer == "advas" else np.array([[3.0, 4.0], [-1.5, -2.0]])
    w = weights(AdvAs(), rows, ("own", "advas"))
    expected = [0, 0] if longer == "advas" else [1.5, 2]
    np.testing.assert_allclose(w @ rows, expected, atol=16 * EPS)


def test_others_that_cancel_leave_no_room_for_the_penalty() -> None:
    """Also where rounding makes their squared sum negative."""
    a, b = 1 + EPS, 1 - EPS
    gram = np.array([[1.0, 0.0, 0.0], [0.0, a * a, -a * a - EPS], [0.0, -a * a - EPS, b * b]])
    assert gram[1:, 1:].sum() < 0
    np.testing.assert_array_equal(AdvAs()(gram, names=NAMES[:3]), [0, 1, 1])


def test_lambda_is_one_where_norms_are_equal() -> None:
    assert AdvAs()(np.diag([4.0, 4.0]))[1] == 1
    assert AdvAs()(np.diag([math.nextafter(4.0, 0), 4.0]))[1] <= 1
