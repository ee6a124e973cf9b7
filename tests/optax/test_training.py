"""A hundred steps in JAX are the hundred steps of the torch wrapper: a GAN on the ring, and a PINN of three losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient
from gradweight.gan import probability_scores
from gradweight.optax import combine, loss_gradients
from gradweight.optax.gan import probability_scores as probability_scores_in_jax
from gradweight.rules import AdaptiveWeights, PINNAnnealing

STEPS, BATCH, WIDTH = 100, 32, 16
MODES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1)


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield


def network(seed, inputs, outputs):
    """Weights of a perceptron with two hidden layers."""
    draw = np.random.default_rng(seed).standard_normal
    sizes = [inputs, WIDTH, WIDTH, outputs]
    layers = {}
    for i in range(3):
        layers[f"w{i}"] = draw((sizes[i], sizes[i + 1])) / np.sqrt(sizes[i])
        layers[f"b{i}"] = 0.1 * draw(sizes[i + 1])
    return layers


def apply(p, x, tanh):
    for i in range(2):
        x = tanh(x @ p[f"w{i}"] + p[f"b{i}"])
    return x @ p["w2"] + p["b2"]


def as_torch(params):
    return {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}


def assert_equal(found, wanted):
    for name, p in wanted.items():
        np.testing.assert_allclose(found[name], p.detach().numpy(), rtol=1e-5, atol=1e-6)


def gan_of_torch(real, noise):
    g, d = as_torch(network(0, 2, 2)), as_torch(network(1, 2, 1))
    g_opt = torch.optim.Adam(g.values(), 1e-3, betas=(0.5, 0.99))
    d_opt = MultiObjectiveGradient(torch.optim.Adam(d.values(), 1e-3, betas=(0.5, 0.99)), AdaptiveWeights())
    for x, z in zip(torch.tensor(real), torch.tensor(noise), strict=True):
        fake = apply(g, z, torch.tanh)
        on_real, on_fake = apply(d, x, torch.tanh), apply(d, fake.detach(), torch.tanh)
        d_opt.zero_grad()
        losses = {"real": F.softplus(-on_real).mean(), "fake": F.softplus(on_fake).mean()}
        d_opt.backward(losses, **probability_scores(on_real, on_fake))
        d_opt.step()
        g_opt.zero_grad()
        F.softplus(-apply(d, fake, torch.tanh)).mean().backward()
        g_opt.step()
    return g, d, d_opt.last


def test_a_gan_on_the_ring():
    random = np.random.default_rng(2)
    real = MODES[random.integers(8, size=(STEPS, BATCH))] + 0.02 * random.standard_normal((STEPS, BATCH, 2))
    noise = random.standard_normal((STEPS, BATCH, 2))
    g_opt = optax.adam(1e-3, b1=0.5, b2=0.99)
    d_opt = optax.chain(combine(AdaptiveWeights(), ("real", "fake")), optax.adam(1e-3, b1=0.5, b2=0.99))

    def discriminator_losses(d, x, fake):
        on_real, on_fake = apply(d, x, jnp.tanh), apply(d, fake, jnp.tanh)
        losses = {"real": jax.nn.softplus(-on_real).mean(), "fake": jax.nn.softplus(on_fake).mean()}
        return losses, probability_scores_in_jax(on_real, on_fake)

    def step(carry, batch):
        (g, g_state), (d, d_state) = carry
        x, z = batch
        (losses, scores), rows = loss_gradients(discriminator_losses, has_aux=True)(d, x, apply(g, z, jnp.tanh))
        updates, d_state = d_opt.update(rows, d_state, d, losses=losses, **scores)
        d = optax.apply_updates(d, updates)
        slope = jax.grad(lambda g: jax.nn.softplus(-apply(d, apply(g, z, jnp.tanh), jnp.tanh)).mean())(g)
        updates, g_state = g_opt.update(slope, g_state, g)
        return ((optax.apply_updates(g, updates), g_state), (d, d_state)), None

    g, d = (jax.tree.map(jnp.asarray, network(*shape)) for shape in ((0, 2, 2), (1, 2, 1)))
    start = ((g, g_opt.init(g)), (d, d_opt.init(d)))
    ((g, _), (d, d_state)), _ = jax.jit(lambda c: jax.lax.scan(step, c, (real, noise)))(start)
    g_torch, d_torch, seen = gan_of_torch(real, noise)
    assert_equal(g, g_torch)
    assert_equal(d, d_torch)
    for field in ("losses", "gram", "weights"):
        found = optax.tree_utils.tree_get(d_state, field)
        np.testing.assert_allclose(found, getattr(seen, field).numpy(), rtol=1e-4)
    assert np.abs(np.asarray(d["w1"]) - network(1, 2, 1)["w1"]).max() > 0.01  # it has moved


X = np.linspace(0.05, 0.95, 16)[:, None]


def pinn_of_torch(rule):
    p = as_torch(network(3, 1, 1))
    opt = MultiObjectiveGradient(torch.optim.Adam(p.values(), 1e-3), rule)
    for _ in range(STEPS):
        x = torch.tensor(X, requires_grad=True)
        (slope,) = torch.autograd.grad(apply(p, x, torch.tanh).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        ends = apply(p, torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tanh)
        opt.zero_grad()
        residual = (curvature + np.pi**2 * torch.sin(np.pi * x.detach())).square().mean()
        opt.backward({"equation": residual, "left": ends[0, 0] ** 2, "right": (ends[1, 0] - 1) ** 2})
        opt.step()
    return p


def test_a_pinn_of_three_losses():
    rule = PINNAnnealing("equation")

    def losses(p):
        u = lambda x: apply(p, x[None], jnp.tanh)[0]  # noqa: E731
        curvature = jax.vmap(jax.grad(jax.grad(u)))(X[:, 0])
        residual = curvature + np.pi**2 * jnp.sin(np.pi * X[:, 0])
        return {"equation": (residual**2).mean(), "left": u(jnp.array(0.0)) ** 2, "right": (u(jnp.array(1.0)) - 1) ** 2}

    opt = optax.chain(combine(rule, ("equation", "left", "right")), optax.adam(1e-3))

    def step(carry, _):
        p, state = carry
        values, rows = loss_gradients(losses)(p)
        updates, state = opt.update(rows, state, p, losses=values)
        return (optax.apply_updates(p, updates), state), None

    p = jax.tree.map(jnp.asarray, network(3, 1, 1))
    (p, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=STEPS))((p, opt.init(p)))
    assert_equal(p, pinn_of_torch(rule))
