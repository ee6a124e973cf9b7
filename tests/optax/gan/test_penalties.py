"""Gradient penalties in JAX against their twins in torch, with the gradient that the discriminator gets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradweight import gan
from gradweight.optax.gan import gradient_penalty, r1_penalty, r2_penalty

DRAW = np.random.default_rng(0).standard_normal
W, REAL, FAKE = DRAW((6, 3)), DRAW((4, 2, 3)), DRAW((4, 2, 3))


def critic(w, xp):
    return lambda x: xp.tanh(x.reshape(4, 6) @ w)


@pytest.mark.parametrize(("ours", "of_torch"), [(r1_penalty, gan.r1_penalty), (r2_penalty, gan.r2_penalty)])
def test_at_samples(ours, of_torch):
    w, x = (torch.tensor(array, requires_grad=True) for array in (W, REAL))
    wanted = of_torch(critic(w, torch)(x), x)
    (slope,) = torch.autograd.grad(wanted, w)
    found, gradient = jax.value_and_grad(lambda w: ours(critic(w, jnp), REAL))(W)
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-10)


def test_between_samples(monkeypatch):
    """One place between the two samples of each pair, the same as torch's if it has drawn the same."""
    key = jax.random.key(0)
    u = np.asarray(jax.random.uniform(key, (4, 1, 1)))
    assert len(set(u.flat)) == 4
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(u))
    w = torch.tensor(W, requires_grad=True)
    wanted = gan.gradient_penalty(critic(w, torch), torch.tensor(REAL), torch.tensor(FAKE))
    (slope,) = torch.autograd.grad(wanted, w)
    found, gradient = jax.value_and_grad(lambda w: gradient_penalty(critic(w, jnp), REAL, FAKE, key=key))(W)
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-10)


def test_a_flat_critic_gets_no_nan():
    penalty, gradient = jax.value_and_grad(
        lambda w: gradient_penalty(lambda x: x @ w, FAKE, FAKE, key=jax.random.key(0))
    )(np.zeros(3))
    assert penalty == 1
    assert not gradient.any()
    with pytest.raises(ValueError, match=r"samples of one shape; got \(4, 2, 3\) and \(3, 2, 3\)"):
        gradient_penalty(lambda x: x, FAKE, FAKE[1:], key=jax.random.key(0))
