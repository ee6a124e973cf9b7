"""The AdvAs penalties without bias, in closed form and in expectation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from gradweight.gan import Vanilla, advas_penalty, advas_penalty_half_batches, advas_penalty_unbiased

from .adversary import ratio_to_finite_differences


def linear_loss(phi, fake, real):
    return (fake @ phi["w"]).mean() - (real @ phi["w"]).mean()


@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_estimators_in_closed_form(seed, n):
    # the gradient of a linear adversary is the difference of the samples
    random = np.random.default_rng(seed)
    fake, real = random.normal(size=(2, n, 3))
    phi = {"w": torch.zeros(3, dtype=torch.float64)}
    g = fake - real
    among_pairs = sum(g[i] @ g[j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    appendix_with_a_minus = (g**2).mean(0).sum() - g.var(0, ddof=1).sum()
    f, r = torch.from_numpy(fake), torch.from_numpy(real)
    unbiased = advas_penalty_unbiased(linear_loss, phi, f, r).item()
    assert unbiased == pytest.approx(among_pairs, rel=1e-10, abs=1e-12)
    assert unbiased == pytest.approx(appendix_with_a_minus, rel=1e-10, abs=1e-12)

    half = (n + 1) // 2
    halves = g[:half].mean(0) @ g[half:].mean(0)
    assert advas_penalty_half_batches(linear_loss, phi, f, r).item() == pytest.approx(halves, rel=1e-10, abs=1e-12)
    assert advas_penalty(lambda p: linear_loss(p, f, r), phi).item() == pytest.approx(g.mean(0) @ g.mean(0), rel=1e-10)


def test_expectations_and_the_sign_in_the_papers_appendix():
    """Eight samples, a true value of 3.961, and a variance of 35.4: 8.39 with bias, 74.8 with the sign as printed."""
    n, d, times = 8, 6, 20_000
    true, variance = 3.961, 35.42
    mean, deviation = (true / d) ** 0.5, (variance / d / 2) ** 0.5  # half the variance from either kind of samples
    fake = mean + deviation * torch.randn(times, n, d, dtype=torch.float64)
    real = deviation * torch.randn(times, n, d, dtype=torch.float64)
    phi = {"w": torch.zeros(d, dtype=torch.float64)}

    g = fake - real
    found = {
        "biased": torch.vmap(lambda f, r: advas_penalty(lambda p: linear_loss(p, f, r), phi, engine="func"))(
            fake, real
        ),
        "unbiased": torch.vmap(lambda f, r: advas_penalty_unbiased(linear_loss, phi, f, r))(fake, real),
        "half batches": torch.vmap(lambda f, r: advas_penalty_half_batches(linear_loss, phi, f, r, engine="func"))(
            fake, real
        ),
        "as printed": (g.square().mean(1) + g.var(1)).sum(-1),
    }
    expected = {
        "biased": true + variance / n,
        "unbiased": true,
        "half batches": true,
        "as printed": true + 2 * variance,
    }
    for name, values in found.items():
        error = values.std() / times**0.5
        # a wrong expectation is off by at least 4.4, and 5 standard errors are passed once in two million
        assert error < 0.15, name
        assert abs(values.mean() - expected[name]) < 5 * error, name


@pytest.mark.parametrize("estimator", [advas_penalty_unbiased, advas_penalty_half_batches])
def test_estimators_are_differentiable_to_the_generator(estimator):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    real, fake = torch.randn(4, 3).double(), torch.randn(4, 3).double()

    def loss(phi, f, r):
        f, r = f.reshape(-1, 3), r.reshape(-1, 3)
        return sum(Vanilla().discriminator(functional_call(net, phi, (r,)), functional_call(net, phi, (f,))).values())

    ratio = ratio_to_finite_differences(lambda x: estimator(loss, dict(net.named_parameters()), x, real), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


def test_dropout_has_a_mask_for_each_sample():
    n, d = 4, 4000
    fake, real = torch.ones(n, d, dtype=torch.float64), torch.zeros(n, d, dtype=torch.float64)
    phi = {"w": torch.zeros(d, dtype=torch.float64)}
    r = advas_penalty_unbiased(lambda phi, f, r: nn.functional.dropout(f) @ phi["w"] - r @ phi["w"], phi, fake, real)
    # E[mask]^2 = 1 in each coordinate; one mask for all would give E[mask^2] = 2. The standard error is 0.02
    assert r.item() / d == pytest.approx(1, abs=0.1)


def test_too_few_samples():
    phi = {"w": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"as many real samples as fake ones, at least 2; got 3 real and 2 fake"):
        advas_penalty_unbiased(linear_loss, phi, torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"as many real samples as fake ones, at least 2; got 1 real and 1 fake"):
        advas_penalty_unbiased(linear_loss, phi, torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="advas_penalty_half_batches needs at least 2 real samples; got 1"):
        advas_penalty_half_batches(linear_loss, phi, torch.zeros(2, 3), torch.zeros(1, 3))
