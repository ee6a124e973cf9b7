"""Normalized and Fade: what they make of the rules inside."""

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    DWA,
    FAMO,
    AdaptiveWeights,
    Fade,
    GradDrop,
    Mean,
    Normalized,
    NormBalance,
    PINNAnnealing,
    Random,
    Sum,
    UPGrad,
)
from gradweight.step.state_names import title


@pytest.mark.parametrize("by", ["norm", "loss"])
def test_is_the_rule_on_the_scaled_gradients(by):
    rng = np.random.default_rng(0)
    rows, losses = rng.standard_normal((3, 4)), rng.uniform(0.5, 2, 3)
    scale = np.linalg.norm(rows, axis=1) if by == "norm" else losses
    scaled = rows / scale[:, None]
    rule = Normalized(UPGrad(), by=by)
    weights, _ = rule.update(rows @ rows.T, rule.init(np.eye(3)), losses=losses)
    np.testing.assert_allclose(weights @ rows, UPGrad()(scaled @ scaled.T) @ scaled, rtol=1e-10)


def test_by_loss_leaves_out_solved_losses_and_refuses_negative_ones():
    rule = Normalized(Mean(), by="loss")
    for values, expected in (([0.0, 2.0], [0.0, 0.5]), ([-1.0, 2.0], [np.nan, np.nan])):
        weights, _ = rule.update(np.eye(2), rule.init(np.eye(2)), losses=np.array(values))
        np.testing.assert_allclose(weights, expected)


def test_states_of_both_are_kept():
    first, second = NormBalance(beta=0.5), DWA()
    rule, gram = Fade(first, second, steps=2, start=1), np.diag([1.0, 9.0])
    state, states = rule.init(gram), [first.init(gram), second.init(gram)]
    assert set(state) == {"first.norms", "first.count", *(f"second.{name}" for name in second.init(gram))}
    for step in range(5):
        losses = np.array([1.0, 0.7**step])
        u, states[0] = first.update(gram * (step + 1), states[0], names=("a", "b"))
        v, states[1] = second.update(gram * (step + 1), states[1], losses=losses)
        found, state = rule.update(gram * (step + 1), state, step=step, names=("a", "b"), losses=losses)
        share = min(max((step - 1) / 2, 0), 1)
        np.testing.assert_allclose(found, (1 - share) * u + share * v, rtol=1e-12)


def test_in_training():
    w = torch.nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.0), Fade(Sum(), Mean(), steps=2))
    seen = []
    for _ in range(4):
        opt.zero_grad()
        seen.append(opt.backward({"a": w[0], "b": 3 * w[1]}).weights[0].item())
        opt.step()
    assert seen == [1.0, 0.75, 0.5, 0.5]


def test_one_backward_only_if_neither_needs_gradients():
    assert not Fade(DWA(), FAMO(), 5).needs_gradients
    assert Fade(DWA(), UPGrad(), 5).needs_gradients
    assert Fade(Mean(), lambda gram: gram[0], 5).faster_on_numpy_from == np.inf


def test_a_state_belongs_to_the_rules_inside():
    assert title(Fade(Sum(), Normalized(FAMO()), 5)) == "Fade(Sum, Normalized(FAMO))"


def test_errors():
    for wrapper in (Normalized, lambda rule: Fade(Sum(), rule, 5), lambda rule: Fade(rule, Sum(), 5)):
        with pytest.raises(TypeError, match="needs a rule that returns weights; GradDrop acts on coordinates"):
            wrapper(GradDrop())
        with pytest.raises(TypeError, match=r"PINNAnnealing needs \['max_abs', 'mean_abs'\] of the gradients"):
            wrapper(PINNAnnealing())
    with pytest.raises(ValueError, match="Normalized needs by 'norm' or 'loss'; got 'length'"):
        Normalized(Sum(), by="length")
    with pytest.raises(ValueError, match="Fade needs steps >= 1; got 0"):
        Fade(Sum(), Mean(), 0)
    gram = np.eye(2)
    with pytest.raises(TypeError, match="UPGrad in Normalized has no signal 'score'; it takes none"):
        Normalized(UPGrad()).update(gram, {}, score=1.0)
    with pytest.raises(TypeError, match="Random needs the signal 'step'; Normalized was given none"):
        Normalized(Random()).update(gram, {})
    with pytest.raises(TypeError, match="AdaptiveWeights needs the signal 'fake_score'; Fade was given"):
        Fade(Sum(), AdaptiveWeights(), 5).update(gram, {}, step=0, names=("real", "fake"))
