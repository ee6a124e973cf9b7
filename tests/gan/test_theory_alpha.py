"""Theorems 1 to 3 of the (alpha_D, alpha_G)-GAN, and the divergence that one order for both players minimises.

Welfert, Kurri, Otstot, Sankar, arXiv:2310.18291; Kurri, Sypherd, Sankar, ITW 2021, arXiv:2106.05232. The discriminator
is the best one, known in closed form; what is differentiated goes through the losses of `Alpha`.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from gradweight.gan import Alpha, Vanilla

from .games import distributions, kl

order = st.floats(0.3, 4)


def value(alpha: float, logits: Tensor, p_r: Tensor, p_g: Tensor) -> Tensor:
    """V_alpha, minus the sum of the discriminator's losses, in which the generator's order has no part."""
    loss = Alpha(alpha, alpha_g=7.0)
    return -(p_r * loss.on_real(logits)).sum() - (p_g * loss.on_fake(logits)).sum()


# ---- Theorem 1


@given(distributions(2), order, st.integers(0, 2**16))
def test_the_best_discriminator_is_the_tilted_posterior(p, alpha, seed):
    """It has no gradient, and V is concave in the probabilities, so no other is as good."""
    p_r, p_g = p
    logits = (alpha * (p_r / p_g).log()).requires_grad_()
    posterior = p_r / (p_r + p_g)
    tilted = posterior**alpha / (posterior**alpha + (1 - posterior) ** alpha)
    torch.testing.assert_close(logits.sigmoid(), tilted, rtol=1e-11, atol=0)
    best = value(alpha, logits, p_r, p_g)
    (gradient,) = torch.autograd.grad(best, logits)
    (one_side,) = torch.autograd.grad((p_r * Alpha(alpha).on_real(logits)).sum(), logits)
    torch.testing.assert_close(gradient / one_side, torch.zeros_like(one_side), rtol=0, atol=1e-11)
    other = logits + torch.randn(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert value(alpha, other, p_r, p_g) < best


# ---- Theorems 2 and 3: what pulls at a generated sample


def log_densities(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Of the data and of the generator at a point of the plane: mixtures of three and of two Gaussians."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for count, spread in ((3, 0.8), (2, 1.1)):
        centres = torch.randn(count, 2, dtype=torch.float64, generator=random)
        exponents = -(x - centres).square().sum(-1) / (2 * spread**2)
        found.append(exponents.logsumexp(0) - 2 * math.log(spread) - math.log(count))
    return found[0], found[1]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.integers(0, 2**16), order, order, st.booleans())
def test_the_orders_change_the_length_of_the_pull_and_not_its_direction(at, seed, alpha_d, alpha_g, saturating):
    """C of Theorem 2 and C^NS of Theorem 3, as the slides have them."""
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    log_r, log_g = log_densities(x, seed)
    of_r, of_g = (torch.autograd.grad(log, x, retain_graph=True)[0] for log in (log_r, log_g))
    logit = alpha_d * (log_r - log_g)
    assume(abs(logit) < 100)  # and so C^NS, of order exp(3 * 100), is within the range
    (pull,) = torch.autograd.grad(Alpha(alpha_d, alpha_g, saturating).generator(logit)["fake"], x)

    p, rest = logit.detach().sigmoid(), (-logit.detach()).sigmoid()  # 1 - p would lose digits
    scale = alpha_d * (p * rest ** (1 - 1 / alpha_g) if saturating else rest * p ** (1 - 1 / alpha_g))
    size = scale * (of_r.abs().max() + of_g.abs().max())
    # powers of up to exp(100) keep 14 digits less two
    torch.testing.assert_close(pull, scale * (of_g - of_r), rtol=1e-11, atol=float(1e-11 * size))


LOG_ODDS = torch.linspace(-12, 12, 241, dtype=torch.float64)
"""Of a sample being real, as the vanilla discriminator has them: far from the data first, near it last."""


def pulls(loss: Alpha) -> Tensor:
    """C or C^NS along `LOG_ODDS`, from the loss."""
    t = LOG_ODDS.clone().requires_grad_()
    (by_t,) = torch.autograd.grad(loss.generator(loss.alpha_d * t)["fake"] * len(t), t)
    return -by_t


@given(st.floats(0.2, 0.95))
def test_alpha_d_below_one_pulls_harder_where_the_vanilla_gan_hardly_pulls(alpha_d):
    """Saturating: at samples far from the data. Not saturating: at samples near them, and less at outliers."""
    more = pulls(Alpha(alpha_d, 1.0, saturating=True)) > pulls(Alpha(1.0, 1.0, saturating=True))
    assert more[0]
    assert not more[-1]
    assert (more[1:] != more[:-1]).sum() == 1
    assert not more[LOG_ODDS >= 0].any()
    not_saturating = pulls(Alpha(alpha_d, 1.0)) > pulls(Alpha())
    assert torch.equal(not_saturating, more.flip(0))


@given(st.floats(0.3, 1), st.floats(1.05, 4))
def test_alpha_g_above_one_pulls_less_near_the_data_or_at_outliers(alpha_d, alpha_g):
    """Saturating: less the nearer the data. Not saturating: less the farther from them."""
    ratio = pulls(Alpha(alpha_d, alpha_g, saturating=True)) / pulls(Alpha(alpha_d, 1.0, saturating=True))
    assert (ratio < 1).all()
    assert (ratio.diff() < 0).all()
    ratio = pulls(Alpha(alpha_d, alpha_g)) / pulls(Alpha(alpha_d, 1.0))
    assert (ratio < 1).all()
    assert (ratio.diff() > 0).all()


# ---- one order for both: Arimoto's divergence


def arimoto(alpha: float, p: Tensor, q: Tensor) -> Tensor:
    """The f-divergence of ``f(u) = ((1 + u^alpha)^(1/alpha) - (1 + u) - 2^(1/alpha) + 2) alpha / (alpha - 1)``."""
    u = p / q
    f = (1 + u**alpha) ** (1 / alpha) - (1 + u) - 2 ** (1 / alpha) + 2
    return alpha / (alpha - 1) * (q * f).sum()


@given(distributions(2), st.sampled_from([0.2, 0.5, 0.9, 1.1, 2.0, 5.0]))
def test_the_generator_minimises_arimoto_s_divergence(p, alpha):
    p_r, p_g = p
    best = value(alpha, alpha * (p_r / p_g).log(), p_r, p_g)
    constant = alpha / (alpha - 1) * (2 ** (1 / alpha) - 2)
    divergence = arimoto(alpha, p_r, p_g)
    torch.testing.assert_close(best, divergence + constant, rtol=1e-11, atol=1e-11)
    if (p_r - p_g).abs().max() > 1e-3:
        assert divergence > 0
    assert abs(arimoto(alpha, p_r, p_r)) < 1e-12
    # where they are equal nothing pulls at the generator
    theta = p_r.log().requires_grad_()
    (gradient,) = torch.autograd.grad(
        value(alpha, alpha * (p_r.log() - theta.log_softmax(0)), p_r, theta.softmax(0)), theta
    )
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@given(distributions(2))
def test_three_of_them_have_names(p):
    """Jensen-Shannon at 1, the squared Hellinger distance at 1/2, total variation at infinity."""
    p_r, p_g = p
    log_ratio, mixture = (p_r / p_g).log(), (p_r + p_g) / 2
    jensen_shannon = (kl(p_r, mixture) + kl(p_g, mixture)) / 2
    torch.testing.assert_close(
        value(1.0, log_ratio, p_r, p_g), 2 * jensen_shannon - math.log(4), rtol=1e-12, atol=1e-12
    )
    hellinger = 1 - (p_r * p_g).sqrt().sum()
    torch.testing.assert_close(value(0.5, log_ratio / 2, p_r, p_g), 2 * hellinger - 2, rtol=1e-12, atol=1e-12)
    total_variation = (p_r - p_g).abs().sum() / 2
    # the best is sure of everything, with whichever is likelier
    torch.testing.assert_close(
        value(math.inf, 1e3 * log_ratio.sign(), p_r, p_g), total_variation - 1, rtol=1e-12, atol=1e-12
    )


# ---- what the slides print otherwise


@pytest.mark.parametrize("loss", [Vanilla(), Alpha()], ids=["Vanilla", "Alpha(1, 1)"])
def test_the_sign_of_the_vanilla_gan_that_does_not_saturate(loss):
    """Printed is ``inf E log D(G(z))``, with the loss's sign lost: a step down that makes fakes look less real."""
    logits = torch.randn(20, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(loss.generator(logits)["fake"], logits)
    (printed,) = torch.autograd.grad(logits.sigmoid().log().mean(), logits)
    assert (ours < 0).all()  # down the loss is up the logits
    torch.testing.assert_close(ours, -printed, rtol=1e-12, atol=0)
