"""Flax NNX and Equinox, as their users write them, against the same step in plain JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradweight.optax import combine, loss_gradients
from gradweight.rules import FAMO

NAMES = ("data", "size")
X = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]


def losses_of(apply):
    return {"data": jnp.mean((apply(X) - jnp.sin(X)) ** 2), "size": jnp.mean(apply(X) ** 2)}


def optimizer():
    return optax.chain(combine(FAMO(), NAMES), optax.adam(1e-2))


def trained(kernel, bias, steps=2):
    """Two steps on a linear layer, written out."""
    p = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    opt = optimizer()
    state = opt.init(p)
    for _ in range(steps):
        values, rows = loss_gradients(lambda p: losses_of(lambda x: x @ p["kernel"] + p["bias"]))(p)
        updates, state = opt.update(rows, state, p, losses=values)
        p = optax.apply_updates(p, updates)
    return p


@pytest.mark.slow
def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    wanted = trained(model.kernel[...], model.bias[...])
    opt = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)

    @nnx.jit
    def step(model, opt):
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        values, rows = loss_gradients(lambda params: losses_of(nnx.merge(graph, params, rest)))(params)
        opt.update(model, rows, losses=values)
        return values

    for _ in range(2):
        values = step(model, opt)
    assert set(values) == set(NAMES)
    np.testing.assert_allclose(model.kernel[...], wanted["kernel"], rtol=1e-5)
    np.testing.assert_allclose(model.bias[...], wanted["bias"], rtol=1e-5)
    assert optax.tree_utils.tree_get(opt.opt_state, "weights") is not None


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    wanted = trained(model.weight.T, model.bias)
    opt = optimizer()
    state = opt.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        params, static = eqx.partition(model, eqx.is_inexact_array)
        values, rows = loss_gradients(lambda params: losses_of(jax.vmap(eqx.combine(params, static))))(params)
        updates, state = opt.update(rows, state, params, losses=values)
        return eqx.apply_updates(model, updates), state

    for _ in range(2):
        model, state = step(model, state)
    np.testing.assert_allclose(model.weight.T, wanted["kernel"], rtol=1e-5)
    np.testing.assert_allclose(model.bias, wanted["bias"], rtol=1e-5)
