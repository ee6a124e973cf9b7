"""CR-MOGM: the average, its start, and what it passes on to the rule inside."""

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    CRMOGM,
    AdaptiveWeights,
    AngleBisector,
    NormBalance,
    PINNAnnealing,
    Random,
    TrimmedMean,
    Uncertainty,
)


def test_is_a_moving_average_of_the_weights():
    rng = np.random.default_rng(0)
    rule, state, expected = CRMOGM(AngleBisector(), alpha=0.8), None, None
    for _ in range(5):
        rows = rng.standard_normal((3, 4))
        gram = rows @ rows.T
        new = AngleBisector()(gram)
        expected = new if expected is None else 0.8 * expected + 0.2 * new
        weights, state = rule.update(gram, rule.init(gram) if state is None else state)
        np.testing.assert_allclose(weights, expected, rtol=1e-13)


def test_a_zero_gradient_keeps_its_average():
    rule = CRMOGM(AngleBisector(), alpha=0.5)
    _, state = rule.update(np.diag([1.0, 4.0]), rule.init(np.eye(2)))
    weights, state = rule.update(np.diag([1.0, 0.0]), state)
    np.testing.assert_array_equal(weights, [1.0, 0.0])
    weights, _ = rule.update(np.diag([1.0, 16.0]), state)
    np.testing.assert_allclose(weights, [1.0, 0.5 * 0.5 + 0.5 * 0.25])


def test_state_and_signals_reach_the_rule_inside():
    inner, outer = NormBalance({"a": 1.0, "b": 3.0}, beta=0.5), CRMOGM(NormBalance({"a": 1.0, "b": 3.0}, beta=0.5), 0.0)
    inside, outside = inner.init(np.eye(2)), outer.init(np.eye(2))
    for scale in (1.0, 10.0, 100.0):
        expected, inside = inner.update(np.diag([scale, 4.0]), inside, names=("a", "b"))
        found, outside = outer.update(np.diag([scale, 4.0]), outside, names=("a", "b"))
        np.testing.assert_array_equal(found, expected)


def test_draws_change_with_the_step_under_the_wrapper():
    p = torch.nn.Parameter(torch.zeros(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), CRMOGM(Random(), alpha=0.0))
    seen = []
    for _ in range(3):
        opt.zero_grad()
        seen.append(opt.backward({"a": p[0], "b": p.sum()}).weights)
        opt.step()
    assert not torch.equal(seen[0], seen[1])


def test_errors():
    with pytest.raises(TypeError, match="CRMOGM needs a rule that returns weights; TrimmedMean acts on coordinates"):
        CRMOGM(TrimmedMean())
    with pytest.raises(ValueError, match=r"CRMOGM needs alpha in \[0, 1\); got -1"):
        CRMOGM(AngleBisector(), alpha=-1)
    rule = CRMOGM(AdaptiveWeights())
    with pytest.raises(TypeError, match="AdaptiveWeights needs the signal 'fake_score'"):
        rule.update(np.eye(2), rule.init(np.eye(2)), names=("real", "fake"), real_score=np.asarray(0.5))


def test_rules_that_need_no_gradients_still_take_one_backward():
    net = torch.nn.Linear(2, 2)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), CRMOGM(Uncertainty()))
    y = net(torch.ones(3, 2))
    seen = opt.backward({"a": y[:, 0].square().mean(), "b": y[:, 1].exp().mean()})
    assert seen.gram.isnan().all()  # no single gradient was computed
    assert seen.weights.isfinite().all()


def test_rules_that_need_entries_of_the_gradients_are_refused():
    with pytest.raises(TypeError, match=r"PINNAnnealing needs \['max_abs', 'mean_abs'\] of the gradients"):
        CRMOGM(PINNAnnealing("a"))
