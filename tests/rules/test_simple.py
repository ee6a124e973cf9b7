"""Sum, Mean and Constant: the weights are what they say, for the losses that have a gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import Constant, Mean, Sum

from ..strategies import regular_sets, structured_sets, weights

NAMES = tuple("abcdefgh")

ANY_SETS = st.one_of(structured_sets(), regular_sets(max_ratio=1e12))


@settings(deadline=None)
@given(ANY_SETS)
def test_sum(rows: np.ndarray) -> None:
    w = weights(Sum(), rows)
    np.testing.assert_array_equal(w, np.any(rows != 0, axis=1))
    np.testing.assert_array_equal(w @ rows, np.ones(len(rows)) @ rows)


@settings(deadline=None)
@given(ANY_SETS)
def test_mean_is_over_the_losses_that_have_a_gradient(rows: np.ndarray) -> None:
    w = weights(Mean(), rows)
    active = rows[np.any(rows != 0, axis=1)]
    expected = active.mean(0) if len(active) else 0 * rows[0]
    # one rounding of 1/n on each row, which cancellation does not shrink
    np.testing.assert_allclose(w @ rows, expected, rtol=0, atol=1e-15 * len(rows) * np.abs(rows).max(initial=0))
    np.testing.assert_array_equal(w == 0, np.all(rows == 0, axis=1))


@settings(deadline=None)
@given(ANY_SETS, st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8))
def test_constant(rows: np.ndarray, chosen: list[float]) -> None:
    rule = Constant(dict(zip(NAMES, chosen, strict=True)))
    w = weights(rule, rows, NAMES[: len(rows)])
    np.testing.assert_array_equal(w, np.where(np.any(rows != 0, axis=1), chosen[: len(rows)], 0))


def test_constant_goes_by_name_not_by_order() -> None:
    rule = Constant({"data": 1.0, "pde": 0.1, "absent": 5.0})
    np.testing.assert_array_equal(rule(np.eye(2), names=("pde", "data")), [0.1, 1.0])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_constant_needs_finite_weights(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"Constant needs finite weights; got {weight} for 'pde'"):
        Constant({"data": 1.0, "pde": weight})


def test_constant_needs_names() -> None:
    with pytest.raises(ValueError, match="Constant finds its weight by name: it needs names=, and was called without"):
        Constant({"data": 1.0})(np.eye(1))


def test_constant_needs_a_weight_for_every_loss() -> None:
    message = r"Constant has no weight for the loss 'boundary'; it has \['data', 'pde'\]"
    with pytest.raises(ValueError, match=message):
        Constant({"pde": 0.1, "data": 1.0})(np.eye(2), names=("data", "boundary"))
