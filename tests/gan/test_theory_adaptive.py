"""Theorem 1 of the adaptive weighted discriminator, on distributions over a few points.

Zadorozhnyy, Cheng, Ye, CVPR 2021, arXiv:2012.03149, appendix A.1. With fixed weights the discriminator's best is
``w_r p_d / (w_r p_d + w_f p_g)``, and what a generator then minimises has its minimum at ``p_g = p_d``. The
discriminator is a table of logits, one for each point, so that it can be any function; the expectations are sums.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradweight import MultiObjectiveGradient
from gradweight.gan import Vanilla

from .games import distributions, kl

LOSS = Vanilla()
weight = st.floats(0.1, 10)


def loss(logits: Tensor, w_r: float, w_f: float, p_d: Tensor, p_g: Tensor) -> Tensor:
    """Minus L^aw(D, p_g)."""
    return w_r * (p_d * LOSS.on_real(logits)).sum() + w_f * (p_g * LOSS.on_fake(logits)).sum()


def best(w_r: float, w_f: float, p_d: Tensor, p_g: Tensor) -> Tensor:
    """The logits of D*."""
    return (w_r * p_d).log() - (w_f * p_g).log()


def least(w_r: float, w_f: float) -> Tensor:
    """Eq. 17, the value of the game."""
    w = torch.tensor([w_r, w_f], dtype=torch.float64)
    return (w * (w / w.sum()).log()).sum()


@given(distributions(2), weight, weight, st.integers(0, 2**16))
def test_the_best_discriminator(p, w_r, w_f, seed):
    """Part 1. The loss is convex in the logits, so the one point without a gradient is the best of all."""
    p_d, p_g = p
    logits = best(w_r, w_f, p_d, p_g).requires_grad_()
    torch.testing.assert_close(logits.sigmoid(), w_r * p_d / (w_r * p_d + w_f * p_g), rtol=1e-12, atol=0)
    value = loss(logits, w_r, w_f, p_d, p_g)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-13)
    other = logits + torch.randn(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert loss(other, w_r, w_f, p_d, p_g) > value


@given(distributions(2), weight, weight)
def test_what_the_generator_minimises(p, w_r, w_f):
    """Part 2, by way of Eq. 15: the least value and two divergences, zero where the distributions are equal."""
    p_d, p_g = p
    mixture = (w_r * p_d + w_f * p_g) / (w_r + w_f)
    value = -loss(best(w_r, w_f, p_d, p_g), w_r, w_f, p_d, p_g)
    expected = least(w_r, w_f) + w_r * kl(p_d, mixture) + w_f * kl(p_g, mixture)
    # sums of terms up to 100
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert value >= least(w_r, w_f) - 1e-12
    if (p_d - p_g).abs().max() > 1e-3:
        assert value > least(w_r, w_f)


@given(distributions(1), weight, weight)
def test_the_minimum_is_at_the_data(p, w_r, w_f):
    (p_d,) = p
    theta = p_d.log().requires_grad_()
    p_g = theta.softmax(0)
    value = -loss(best(w_r, w_f, p_d, p_g), w_r, w_f, p_d, p_g)
    torch.testing.assert_close(value, least(w_r, w_f), rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(value, theta)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("w_r", "w_f"), [(1.0, 1.0), (0.5, 2.0)])
def test_training_finds_the_best_discriminator(w_r, w_f):
    """The weights of a rule that holds them fixed, applied by the optimizer to the gradients of the two losses."""
    p_d, p_g = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.2, 0.3]], dtype=torch.float64)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    opt = MultiObjectiveGradient(
        torch.optim.SGD([logits], lr=6.0), lambda gram: torch.tensor([w_r, w_f], dtype=gram.dtype)
    )
    for _ in range(60):
        opt.zero_grad()
        opt.backward({"real": (p_d * LOSS.on_real(logits)).sum(), "fake": (p_g * LOSS.on_fake(logits)).sum()})
        opt.step()
    # a step leaves at most 0.7 of the distance, which was about 2: 3e-10 is left of it
    torch.testing.assert_close(logits.detach(), best(w_r, w_f, p_d, p_g), rtol=0, atol=1e-8)
