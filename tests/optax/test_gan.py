"""Scores, alpha-losses and AdvAs in JAX against their twins in torch, in float64."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradweight import gan
from gradweight.optax.gan import advas_penalty, alpha_loss, critic_scores, probability_scores

LOGITS = np.array([-30.0, -3.0, -0.5, 0.0, 0.2, 4.0, 40.0])


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0, math.inf])
def test_alpha_loss(alpha):
    """With its first two derivatives, where the discriminator is sure, too."""
    s = torch.tensor(LOGITS, requires_grad=True)
    value = gan.alpha_loss(s, alpha)
    (first,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), s)
    of_one = lambda s: alpha_loss(s, alpha)  # noqa: E731
    for function, wanted in ((of_one, value), (jax.grad(of_one), first), (jax.grad(jax.grad(of_one)), second)):
        found = jax.vmap(function)(LOGITS)
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match=r"alpha_loss needs alpha in \(0, inf\]; got 0"):
        alpha_loss(LOGITS, 0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["probability_scores", "critic_scores"])
def test_scores(name, sign):
    ours = {"probability_scores": probability_scores, "critic_scores": critic_scores}[name]
    real, fake = LOGITS, LOGITS[::-1] * 0.5
    wanted = getattr(gan, name)(torch.tensor(real), torch.tensor(fake.copy()), sign=sign)
    for key, found in ours(real, fake, sign=sign).items():
        np.testing.assert_allclose(found, wanted[key].numpy(), rtol=1e-12)
    assert not jax.grad(lambda r: ours(r, fake)["real_score"])(real).any()
    with pytest.raises(ValueError, match=f"{name} needs sign 1"):
        ours(real, fake, sign=0)


def test_advas_penalty():
    draw = np.random.default_rng(0).standard_normal
    phi, fake, real = {"a": draw((2, 3)), "b": draw(3)}, draw((5, 2)), draw((4, 2))

    def of_torch(phi):
        hidden = lambda x: torch.tanh(x @ phi["a"]) @ phi["b"]  # noqa: E731
        return torch.nn.functional.softplus(hidden(samples)).mean() + hidden(torch.tensor(real)).square().mean()

    samples = torch.tensor(fake, requires_grad=True)
    wanted = gan.advas_penalty(of_torch, {name: torch.tensor(p) for name, p in phi.items()})
    (slope,) = torch.autograd.grad(wanted, samples)

    def penalty(fake):
        def terms(phi):
            hidden = lambda x: jnp.tanh(x @ phi["a"]) @ phi["b"]  # noqa: E731
            return {"fake": jax.nn.softplus(hidden(fake)).mean(), "real": (hidden(real) ** 2).mean()}

        return advas_penalty(terms, phi)

    found, gradient = jax.value_and_grad(penalty)(fake)
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-10)
    with pytest.raises(ValueError, match=r"must be a scalar; got shape \(3,\)"):
        advas_penalty(lambda phi: phi["b"], phi)
