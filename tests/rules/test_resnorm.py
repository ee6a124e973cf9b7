"""ResNorm against what it is the minimum of."""

import numpy as np
import pytest

from gradweight.rules import ResNorm


def test_weighted_losses_are_proportional_to_the_powers_of_relative_rates():
    rule, gram = ResNorm(alpha=1.5), np.eye(3)
    first, now = np.array([1.0, 10.0, 4.0]), np.array([0.5, 9.0, 1.0])
    weights, state = rule.update(gram, rule.init(gram), losses=first)
    np.testing.assert_allclose(weights, 3 / first / sum(1 / first), rtol=1e-12)
    weights, _ = rule.update(gram, state, losses=now)
    left = now / first
    wanted = (left / left.mean()) ** 1.5
    np.testing.assert_allclose(weights * now / wanted, (weights * now / wanted)[0], rtol=1e-12)
    assert weights.sum() == pytest.approx(3)


def test_losses_at_zero_and_below():
    rule, gram = ResNorm(), np.eye(3)
    weights, _ = rule.update(gram, rule.init(gram), losses=np.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(weights, [0, 1, 1])
    weights, _ = rule.update(gram, rule.init(gram), losses=np.array([-1.0, 1.0, 1.0]))
    assert np.isnan(weights).all()


def test_errors():
    with pytest.raises(ValueError, match="ResNorm needs alpha >= 0 and finite; got -1"):
        ResNorm(-1)
