"""Scores against their definitions, and through AdaptiveWeights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.gan import Wasserstein, critic_scores, probability_scores
from gradweight.rules import AdaptiveWeights

# few different values, so that there are ties
values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)
signs = st.sampled_from([1, -1])


@given(values, values, signs)
def test_probabilities(real, fake, sign):
    found = probability_scores(
        torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64), sign=sign
    )
    for name, logits in (("real_score", real), ("fake_score", fake)):
        mean = sum(1 / (1 + math.exp(-sign * s)) for s in logits) / len(logits)
        assert found[name].item() == pytest.approx(mean, rel=1e-14)


@given(values, values, signs)
def test_ranks(real, fake, sign):
    found = critic_scores(torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64), sign=sign)
    wins = sum((sign * r > sign * f) + (r == f) / 2 for r in real for f in fake) / len(real) / len(fake)
    assert found["real_score"].item() == pytest.approx(wins, abs=1e-14)
    assert found["fake_score"].item() == pytest.approx(1 - wins, abs=1e-14)


@given(values, values, st.integers(-1000, 1000), st.integers(1, 1000))
def test_ranks_do_not_depend_on_the_critics_offset_and_scale(real, fake, offset, scale):
    r, f = torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    assert critic_scores(scale * r + offset, scale * f + offset) == critic_scores(r, f)


@pytest.mark.parametrize("scores", [probability_scores, critic_scores])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_detached_and_0_dim_in_a_dtype_that_can_hold_a_mean(scores, dtype):
    real, fake = (torch.randn(5, 1, 4, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    for score in scores(real, fake).values():
        assert score.shape == ()
        assert not score.requires_grad
        assert score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_a_critic_that_scores_real_low_gets_the_same_weights():
    net = nn.Linear(2, 1).double()
    real, fake = torch.randn(20, 2).double(), torch.randn(20, 2).double() + 0.5
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), 0.1), AdaptiveWeights())
    r, f = net(real), net(fake)
    straight = opt.backward(Wasserstein().discriminator(r, f), **critic_scores(r, f)).weights
    opt.zero_grad()
    r, f = -net(real), -net(fake)  # its scores, low for real
    upside_down = opt.backward(Wasserstein().discriminator(-r, -f), **critic_scores(r, f, sign=-1)).weights
    torch.testing.assert_close(straight, upside_down, rtol=0, atol=0)


@pytest.mark.parametrize("scores", [probability_scores, critic_scores])
def test_signs_that_are_none(scores):
    with pytest.raises(ValueError, match=rf"{scores.__name__} needs sign 1 .* or -1 .*; got 0"):
        scores(torch.zeros(1), torch.zeros(1), sign=0)


@pytest.mark.parametrize("score", [5.0, -1.0, torch.tensor(5.0)])
def test_logits_as_scores(score):
    net = nn.Linear(2, 1)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AdaptiveWeights())
    out = net(torch.ones(3, 2))
    with pytest.raises(
        ValueError, match=r"AdaptiveWeights needs the signal 'real_score' in \[0, 1\]; got .*probability_sc"
    ):
        opt.backward({"real": out.mean(), "fake": out.square().mean()}, real_score=score, fake_score=0.5)
    assert net.weight.grad is None
    opt.backward({"real": out.mean(), "fake": out.square().mean()}, real_score=1.0000001, fake_score=0.0)


@pytest.mark.parametrize("scores", [probability_scores, critic_scores])
def test_compiled_in_one_graph(scores):
    real, fake = torch.linspace(-1, 1, 6, dtype=torch.bfloat16), torch.linspace(-2, 1, 6, dtype=torch.bfloat16)
    compiled = torch.compile(scores, fullgraph=True, backend="eager")
    assert compiled(real, fake) == scores(real, fake)
