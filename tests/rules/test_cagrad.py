"""CAGrad: no gap between the primal and the dual problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import CAGrad
from gradweight.rules._solvers.ball import inverse_root

from ..strategies import regular_sets, structured_sets, weights

RADII = st.one_of(st.sampled_from([0.0, 0.4, 0.5]), st.floats(1e-3, 0.95))


@settings(max_examples=100)
@given(st.one_of(structured_sets(), regular_sets(max_ratio=1e3)), RADII)
def test_primal_and_dual_meet(rows: np.ndarray, c: float) -> None:
    rows = rows[rows.any(axis=1)]
    if len(rows):
        w = weights(CAGrad(c), rows)
        mean, size = rows.mean(axis=0), np.linalg.norm(rows, axis=1).max()
        d, radius = w @ rows, c * np.linalg.norm(mean)
        added = w - 1 / len(rows)
        tolerance = 1e-9 * size
        if not w.any():
            # either there is no mean, or 0 is as good as anything
            d, added = 0 * mean, 0 * added
        assert np.all(added >= -1e-12)
        assert np.linalg.norm(d - mean) <= radius + tolerance or not w.any()
        worst = (rows @ d).min()
        value = 0.0
        if added.sum() > 0 and np.linalg.norm(d - mean) >= radius - tolerance:
            dual = added / added.sum() @ rows
            value = dual @ mean + radius * np.linalg.norm(dual)
        # any dual value bounds any primal value from above, and equal ones prove both optimal; d inside of the ball
        # is the optimum where 0 is a convex combination, which has the dual value 0
        if c > 0 and w.any():
            assert worst == pytest.approx(value, abs=tolerance * size)


@settings(max_examples=60)
@given(regular_sets(min_m=2, max_ratio=1e2), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_nothing_in_the_ball_is_better(rows: np.ndarray, c: float, seed: int) -> None:
    mean = rows.mean(axis=0)
    best = (rows @ (weights(CAGrad(c), rows) @ rows)).min()
    others = np.random.default_rng(seed).standard_normal((200, rows.shape[1]))
    others *= c * np.linalg.norm(mean) / np.linalg.norm(others, axis=1, keepdims=True)
    assert best >= (rows @ (mean + others).T).min(axis=0).max() - 1e-12 * np.sum(rows**2)


@given(regular_sets(min_m=2, max_m=2, max_ratio=1e3), st.floats(0.05, 0.95))
def test_two_losses_by_a_search_along_the_dual(rows: np.ndarray, c: float) -> None:
    mean = rows.mean(axis=0)
    low, high = 0.0, 1.0

    def value(x: float) -> float:
        v = np.array([x, 1 - x]) @ rows
        return float(v @ mean + c * np.linalg.norm(mean) * np.linalg.norm(v))

    for _ in range(200):
        one, other = low + (high - low) * 0.4, low + (high - low) * 0.6
        low, high = (low, other) if value(one) <= value(other) else (one, high)
    v = np.array([low, 1 - low]) @ rows
    expected = mean + c * np.linalg.norm(mean) * v / np.linalg.norm(v)
    found = weights(CAGrad(c), rows) @ rows
    # a search by values of a convex function finds its minimum to sqrt(eps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.linalg.norm(mean))


@pytest.mark.parametrize("m", [9, 16])
@pytest.mark.parametrize("c", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("dimension", [3, 30])
def test_primal_and_dual_meet_beyond_the_enumeration_of_faces(m: int, c: float, dimension: int) -> None:
    rng = np.random.default_rng(m)
    rows = (rng.standard_normal((m, dimension)) + np.eye(dimension)[0] * 2) * 10.0 ** rng.uniform(-3, 3, (m, 1))
    w = weights(CAGrad(c), rows)
    mean, d = rows.mean(axis=0), w @ rows
    radius = c * np.linalg.norm(mean)
    added = w - 1 / m
    assert np.all(added >= -1e-12)
    assert np.linalg.norm(d - mean) <= radius * (1 + 1e-12)
    dual = added / added.sum() @ rows
    value = dual @ mean + radius * np.linalg.norm(dual)
    # inner products with gradients that are up to 1e6 times as long, of which rounding is left
    assert (rows @ d).min() == pytest.approx(value, rel=1e-9, abs=1e-14 * np.linalg.norm(mean) ** 2)


@settings(max_examples=60)
@given(st.one_of(structured_sets(min_m=3), regular_sets(min_m=3, max_ratio=1e6)), RADII)
def test_active_sets_and_faces_agree(rows: np.ndarray, c: float) -> None:
    exact = weights(CAGrad(c), rows) @ rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradweight.rules._solvers.ball.MOST_FACES_OF", 2)
        found = weights(CAGrad(c), rows) @ rows
    # 1e-7: the roots of both cancel where the best direction barely exists
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-7 * np.linalg.norm(rows, axis=1).max())


def test_active_sets_leave_faces_without_a_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few dimensions, many norms and a large radius let the dual fall for ever along a face."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        m = int(rng.integers(3, 7))
        rows = rng.standard_normal((m, int(rng.integers(2, m + 2)))) * 10.0 ** rng.uniform(-1.5, 1.5, (m, 1))
        exact = weights(CAGrad(0.9), rows) @ rows
        with monkeypatch.context() as patch:
            patch.setattr("gradweight.rules._solvers.ball.MOST_FACES_OF", 2)
            found = weights(CAGrad(0.9), rows) @ rows
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-8 * np.linalg.norm(rows, axis=1).max())


def test_opposed_gradients() -> None:
    # the best minimum is 0; of all directions that reach it the one nearest to the mean is the third gradient's share
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(weights(CAGrad(), rows) @ rows, [0, 1])
    assert not weights(CAGrad(), rows[:2]).any()
    np.testing.assert_allclose(weights(CAGrad(c=0.0), rows[1:]), [0.5, 0.5])


def test_a_small_radius_is_kept_to() -> None:
    rows = np.random.default_rng(5).standard_normal((4, 6))
    mean = rows.mean(axis=0)
    moved = weights(CAGrad(c=1e-12), rows) @ rows - mean
    # what can be seen of it beside the mean
    assert np.linalg.norm(moved) <= 1e-11 * np.linalg.norm(mean)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_forward_mode_differentiation_agrees_with_reverse(m: int) -> None:
    """Faces without a minimum, and a direction held to one gradient, have square roots of 0 that are not looked at."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(m, 8, generator=generator, dtype=torch.float64)
        rows[1] += 2 * rows[0]
        change = torch.randn(m, 8, generator=generator, dtype=torch.float64)

        def of(rows: torch.Tensor) -> torch.Tensor:
            return CAGrad(0.4)(rows @ rows.T)

        _, forward = torch.func.jvp(of, (rows,), (change,))
        reverse = (torch.func.jacrev(of)(rows) * change).sum((1, 2))
        torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"CAGrad needs c >= 0 and finite; got -0\.1"):
        CAGrad(-0.1)


def test_the_inverse_of_a_length_of_zero_is_zero() -> None:
    np.testing.assert_array_equal(inverse_root(np.array([4.0, 0.0])), [0.5, 0.0])
