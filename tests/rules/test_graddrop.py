"""GradDrop: what is kept, its expectation, and how its draws differ."""

import numpy as np
import pytest
import torch

from gradweight.rules import GradDrop


def test_each_coordinate_keeps_one_sign():
    rows = np.random.default_rng(0).standard_normal((4, 1000))
    direction = GradDrop().combine(rows, step=0)
    positive, negative = rows.clip(0).sum(0), rows.clip(None, 0).sum(0)
    assert np.all(np.isclose(direction, positive) | np.isclose(direction, negative))
    assert 0.4 < np.isclose(direction, positive).mean() < 0.6


def test_probability_of_the_positive_sign_is_the_purity():
    """P = (1 + 1/5) / 2 = 0.6 for gradients 3 and -2: over 100,000 coordinates within 5 standard deviations."""
    rows = np.stack([np.full(100_000, 3.0), np.full(100_000, -2.0)])
    kept = GradDrop(seed=3).combine(rows, step=1) == 3
    assert kept.mean() == pytest.approx(0.6, abs=5 * np.sqrt(0.24 / 100_000))


def test_leak_passes_in_any_case():
    rows = np.array([[3.0] * 50, [-2.0] * 50])
    without = GradDrop().combine(rows, step=0)
    leaking = GradDrop({"a": 0.5, "b": 0.0}).combine(rows, step=0, names=("a", "b"))
    np.testing.assert_allclose(leaking, np.where(without == 3, 3.0, -2.0 + 1.5))
    everything = GradDrop({"a": 1.0, "b": 1.0}).combine(rows, step=0, names=("a", "b"))
    np.testing.assert_allclose(everything, rows.sum(0))


def test_draws_differ_by_step_seed_and_parameter():
    rows = np.stack([np.ones(64), -np.ones(64)])
    drawn = GradDrop().combine(rows, step=0)
    assert np.array_equal(drawn, GradDrop().combine(rows, step=0))
    assert not np.array_equal(drawn, GradDrop().combine(rows, step=1))
    assert not np.array_equal(drawn, GradDrop(seed=1).combine(rows, step=0))
    # another parameter of the same shape
    assert not np.array_equal(drawn, GradDrop().combine(rows, step=0, offset=64))


def test_a_part_has_the_draws_of_its_coordinates():
    rows = np.random.default_rng(0).standard_normal((3, 40))
    whole = GradDrop().combine(rows, step=5, offset=7)
    np.testing.assert_array_equal(GradDrop().combine(rows[:, 11:], step=5, offset=18), whole[11:])


def test_shape_of_the_parameter_is_kept():
    rows = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    direction = GradDrop().combine(rows, step=torch.tensor(2))
    assert direction.shape == (2, 4, 5)
    flat = GradDrop().combine(rows.reshape(3, 40), step=torch.tensor(2))
    assert torch.equal(direction.reshape(-1), flat)


def test_errors():
    with pytest.raises(ValueError, match=r"GradDrop needs leaks in \[0, 1\]; got 1.5 for 'a'"):
        GradDrop({"a": 1.5})
    with pytest.raises(ValueError, match="GradDrop has no leak for the loss 'b'"):
        GradDrop({"a": 0.5}).combine(np.ones((2, 3)), step=0, names=("a", "b"))
