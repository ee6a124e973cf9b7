"""GradNorm's targets: the stationary point of the loss that the paper descends on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import GradNorm


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0, 3))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_weighted_norms_meet_the_targets(seed, m, alpha):
    """Eq. 1: G_i = mean G * r_i^alpha up to one common factor, which the renormalisation to sum m fixes."""
    rng = np.random.default_rng(seed)
    rule = GradNorm(alpha)
    first, later = rng.uniform(0.1, 10, (2, m))
    norms = 10 ** rng.uniform(-6, 6, m)
    gram = np.diag(norms**2)
    _, state = rule.update(gram, rule.init(gram), losses=first)
    weights, _ = rule.update(gram, state, losses=later)
    left = later / first
    target = (left / left.mean()) ** alpha
    ratio = weights * norms / target
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-11)
    assert weights.sum() == pytest.approx(m, rel=1e-12)


def test_first_step_makes_all_norms_equal():
    rule, gram = GradNorm(), np.diag([1.0, 4.0])
    weights, _ = rule.update(gram, rule.init(gram), losses=np.array([3.0, 7.0]))
    np.testing.assert_allclose(weights, [4 / 3, 2 / 3])


def test_losses_at_zero_do_not_stop_training():
    rule, gram = GradNorm(), np.eye(2)
    _, state = rule.update(gram, rule.init(gram), losses=np.ones(2))
    np.testing.assert_allclose(rule.update(gram, state, losses=np.zeros(2))[0], [1, 1])


def test_alpha_is_checked():
    with pytest.raises(ValueError, match="GradNorm needs alpha >= 0 and finite; got -1"):
        GradNorm(-1)
