"""The trimmed mean against SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradweight.rules import TrimmedMean


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(1, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_is_the_mean_without_the_extremes(seed, trim, more):
    m = 2 * trim + more
    rows = np.random.default_rng(seed).standard_normal((m, 2, 3))
    # half a count more than the fraction, against its rounding down
    expected = stats.trim_mean(rows, (trim + 1e-9) / m, axis=0)
    np.testing.assert_allclose(TrimmedMean(trim).combine(rows), expected, atol=1e-14)


@pytest.mark.parametrize(("active", "expected"), [(4, 2.5), (3, 2.0), (2, 1.5), (1, 1.0), (0, 0.0)])
def test_losses_that_do_not_reach_the_parameter_are_left_out(active, expected):
    rows = np.arange(1.0, 6.0)[:, None] * (np.arange(5) < active)[:, None]
    assert TrimmedMean(1).combine(rows) == pytest.approx(expected)


def test_an_entry_that_is_zero_counts():
    rows = np.array([[0.0, 1.0], [5.0, 1.0], [6.0, 1.0]])
    np.testing.assert_array_equal(TrimmedMean(1).combine(rows), [5.0, 1.0])


def test_errors():
    with pytest.raises(ValueError, match=r"TrimmedMean\(trim=2\) needs 5 losses; got 4"):
        TrimmedMean(2).combine(np.ones((4, 3)))
    with pytest.raises(ValueError, match="TrimmedMean needs trim >= 0; got -1"):
        TrimmedMean(-1)
