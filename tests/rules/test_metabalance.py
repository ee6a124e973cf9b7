"""MetaBalance against the recursion of its algorithm, and its strategies."""

import numpy as np
import pytest

from gradweight.rules import MetaBalance


@pytest.mark.parametrize("when", ["always", "longer", "shorter"])
def test_is_the_algorithm(when):
    rng = np.random.default_rng(0)
    rule, average = MetaBalance("b", relax=0.4, beta=0.8, when=when), np.zeros(3)
    state = rule.init(np.eye(3))
    for _ in range(6):
        norms = rng.uniform(0.5, 2, 3)
        average = 0.8 * average + 0.2 * norms
        scaled = average[1] / average * 0.4 + 0.6
        applies = {"always": average > 0, "longer": average > average[1], "shorter": average < average[1]}[when]
        weights, state = rule.update(np.diag(norms**2), state, names=("a", "b", "c"))
        np.testing.assert_allclose(weights, np.where(applies, scaled, 1), rtol=1e-12)


def test_before_the_target_has_a_gradient():
    rule = MetaBalance("a")
    weights, _ = rule.update(np.diag([0.0, 4.0]), rule.init(np.eye(2)), names=("a", "b"))
    np.testing.assert_array_equal(weights, [0, 1])


def test_errors():
    with pytest.raises(ValueError, match=r"MetaBalance needs relax in \[0, 1\]; got 2"):
        MetaBalance("a", relax=2)
    with pytest.raises(ValueError, match="MetaBalance needs when 'always', 'longer' or 'shorter'; got 'never'"):
        MetaBalance("a", when="never")
