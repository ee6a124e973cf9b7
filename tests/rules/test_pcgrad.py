"""PCGrad against the algorithm of the paper, written on vectors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import PCGrad
from gradweight.rules._solvers.draws import permutations


def on_vectors(rows, order):
    """Algorithm 1 of arXiv:2001.06782."""
    total = np.zeros(rows.shape[1])
    for i, g in enumerate(rows):
        g = g.copy()
        for j in order[i]:
            if j != i and g @ rows[j] < 0:
                g -= (g @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += g
    return total


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 100))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_is_the_algorithm_on_vectors(seed, m, step):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((m, m + 2)) * 10 ** rng.uniform(-3, 3, (m, 1))
    expected = on_vectors(rows, permutations(0, step, m, m, rows))
    found = rows.T @ PCGrad()(rows @ rows.T, step=step)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(rows).max())


def test_the_order_matters_from_three_losses_on():
    rows = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.6, -1.2]])
    seen = {tuple(PCGrad()(rows @ rows.T, step=step).round(9)) for step in range(30)}
    assert len(seen) > 1
    assert len({tuple(PCGrad()(rows[:2] @ rows[:2].T, step=step)) for step in range(30)}) == 1


def test_no_conflict_leaves_the_sum():
    np.testing.assert_array_equal(PCGrad()(np.array([[1.0, 0.5], [0.5, 9.0]]), step=0), [1, 1])
