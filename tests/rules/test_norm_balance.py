"""NormBalance against the balancer's formula, written as a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import NormBalance

SHARES = {"a": 3.0, "b": 1.0, "c": 0.5}
NAMES = tuple(SHARES)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.999))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_is_the_corrected_moving_average(seed, beta):
    rng = np.random.default_rng(seed)
    rule = NormBalance(SHARES, norm=2.0, beta=beta)
    state, history = rule.init(np.eye(3)), []
    for _ in range(4):
        history.append(10 ** rng.uniform(-3, 3, 3))
        weights, state = rule.update(np.diag(history[-1] ** 2), state, names=NAMES)
        decay = beta ** np.arange(len(history))[::-1, None]
        average = (decay * history).sum(0) / decay.sum()
        np.testing.assert_allclose(weights, 2.0 * np.array([3, 1, 0.5]) / 4.5 / average, rtol=1e-11)


def test_without_memory_the_weighted_norms_are_the_shares():
    rule = NormBalance(beta=0.0, norm=4.0)
    weights, _ = rule.update(np.diag([1e-6, 4.0, 1e8]), rule.init(np.eye(3)))
    np.testing.assert_allclose(weights * np.array([1e-3, 2.0, 1e4]), 4 / 3, rtol=1e-13)


def test_a_zero_gradient_waits_and_its_share_goes_to_the_others():
    rule = NormBalance(SHARES, beta=0.9)
    _, state = rule.update(np.diag([1.0, 4.0, 9.0]), rule.init(np.eye(3)), names=NAMES)
    weights, after = rule.update(np.diag([0.0, 4.0, 9.0]), state, names=NAMES)
    np.testing.assert_allclose(weights, [0, 1 / 1.5 / 2, 0.5 / 1.5 / 3])
    assert after["norms"][0] == state["norms"][0]
    assert after["count"][0] == state["count"][0]


def test_errors():
    with pytest.raises(ValueError, match="NormBalance needs shares >= 0 and finite; got -1 for 'a'"):
        NormBalance({"a": -1})
    with pytest.raises(ValueError, match="NormBalance has no share for the loss 'z'"):
        NormBalance(SHARES).update(np.eye(2), NormBalance().init(np.eye(2)), names=("a", "z"))
    with pytest.raises(ValueError, match="NormBalance finds its share by name"):
        NormBalance(SHARES).update(np.eye(2), NormBalance().init(np.eye(2)))
