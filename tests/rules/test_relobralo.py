"""ReLoBRaLo against the recursion of the paper, with the coin of the rule."""

import numpy as np
import pytest

from gradweight.rules import ReLoBRaLo
from gradweight.rules._solvers.draws import uniforms


@pytest.mark.parametrize("lookback", [0.0, 0.5, 1.0])
def test_is_the_recursion_of_the_paper(lookback):
    rule, gram = ReLoBRaLo(alpha=0.7, lookback=lookback, temperature=0.5, seed=3), np.eye(3)
    losses = np.random.default_rng(0).uniform(0.5, 2, (12, 3))

    def balanced(t, s):
        powers = np.exp(losses[t] / (0.5 * losses[s]))
        return 3 * powers / powers.sum()

    state, expected, coins = rule.init(gram), np.ones(3), set()
    for t in range(12):
        rho = float(uniforms(3, t, (1,), gram)[0] < lookback)
        coins.add(rho)
        if t:
            expected = 0.7 * (rho * expected + (1 - rho) * balanced(t, 0)) + 0.3 * balanced(t, t - 1)
        weights, state = rule.update(gram, state, losses=losses[t], step=t)
        np.testing.assert_allclose(weights, expected, rtol=1e-13)
    assert coins == {0.0: {0.0}, 0.5: {0.0, 1.0}, 1.0: {1.0}}[lookback]


def test_a_loss_at_zero_is_no_measure():
    rule, gram = ReLoBRaLo(alpha=0.0), np.eye(2)
    state = rule.init(gram)
    for step, losses in enumerate(([1.0, 1.0], [1.0, 0.0], [1.0, 1.0])):
        weights, state = rule.update(gram, state, losses=np.array(losses), step=step)
    np.testing.assert_allclose(weights, 1)


def test_errors():
    with pytest.raises(ValueError, match=r"ReLoBRaLo needs alpha in \[0, 1\); got 1"):
        ReLoBRaLo(alpha=1)
    with pytest.raises(ValueError, match=r"ReLoBRaLo needs lookback in \[0, 1\]; got 2"):
        ReLoBRaLo(lookback=2)
    with pytest.raises(ValueError, match="ReLoBRaLo needs temperature > 0"):
        ReLoBRaLo(temperature=0)
