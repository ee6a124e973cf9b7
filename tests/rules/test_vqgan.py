"""VQGAN's adaptive weight: Eq. 7, its bound, and its edges."""

import numpy as np
import pytest

from gradweight.rules import VQGANWeight

NAMES = ("codebook", "reconstruction", "adversarial")


def test_adversarial_gradient_gets_the_length_of_the_reconstruction():
    rows = np.random.default_rng(0).standard_normal((3, 5)) * np.array([[1.0], [7.0], [1e-3]])
    weights = VQGANWeight(factor=0.8)(rows @ rows.T, names=NAMES)
    assert weights[:2].tolist() == [1, 1]
    assert weights[2] * np.linalg.norm(rows[2]) == pytest.approx(0.8 * np.linalg.norm(rows[1]), rel=1e-12)


def test_ratio_is_bounded_at_any_scale_of_gradients():
    for scale in (1e-30, 1.0, 1e30):
        weights = VQGANWeight(factor=1.0, most=100.0)(scale * np.diag([1.0, 1.0, 1e-9]), names=NAMES)
        np.testing.assert_allclose(weights, [1, 1, 100])


@pytest.mark.parametrize(
    ("squared", "expected"), [([1, 0, 4], [1, 0, 0.8]), ([1, 4, 0], [1, 1, 0]), ([0, 4, 1], [0, 1, 1.6])]
)
def test_zero_gradients(squared, expected):
    np.testing.assert_allclose(VQGANWeight()(np.diag(squared).astype(float), names=NAMES), expected)


def test_step_without_the_adversarial_loss():
    np.testing.assert_array_equal(VQGANWeight(every_step=False)(np.eye(2), names=NAMES[:2]), [1, 1])


def test_errors():
    with pytest.raises(ValueError, match="VQGANWeight needs two losses; both are named 'a'"):
        VQGANWeight("a", "a")
    with pytest.raises(ValueError, match="VQGANWeight needs factor >= 0"):
        VQGANWeight(factor=-1.0)
