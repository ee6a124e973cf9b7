"""DWA against Eq. 7 on the means of whole periods."""

import numpy as np
import pytest

from gradweight.rules import DWA


@pytest.mark.parametrize("period", [1, 3])
def test_is_the_softmax_of_ratios_of_period_means(period):
    rng = np.random.default_rng(0)
    rule, gram = DWA(temperature=1.5, period=period), np.eye(3)
    state = rule.init(gram)
    losses = rng.uniform(0.5, 2, (5 * period, 3))
    for t in range(5 * period):
        weights, state = rule.update(gram, state, losses=losses[t])
        epoch = t // period
        means = losses[: epoch * period].reshape(epoch, period, 3).mean(1)
        ratio = means[-1] / means[-2] if epoch >= 2 else np.ones(3)
        expected = 3 * np.exp(ratio / 1.5) / np.exp(ratio / 1.5).sum()
        np.testing.assert_allclose(weights, expected, rtol=1e-13)


def test_zero_gradients_are_left_out_of_the_softmax():
    weights, _ = DWA().update(np.diag([1.0, 0.0, 1.0]), DWA().init(np.eye(3)), losses=np.ones(3))
    np.testing.assert_allclose(weights, [1, 0, 1])


def test_errors():
    with pytest.raises(ValueError, match="DWA needs temperature > 0 and finite; got 0"):
        DWA(0)
