"""`loss_gradients` in each mode against one ``jax.grad`` of each loss, and under the transforms of JAX."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradweight.optax import combine, loss_gradients, value_and_combined_grad
from gradweight.rules import AdaptiveWeights, AngleBisector, UPGrad

MODES = ("each", "vmap", "vjp")
X = np.linspace(-1, 1, 4, dtype=np.float32)


def losses(p, x):
    hidden = jnp.tanh(p["w"] * x + p["b"])
    return {"second": jnp.sum(hidden**2), "first": jnp.sum(jnp.cos(hidden))}, {"real_score": hidden.mean() + 0.5}


PARAMS = {"w": np.array([0.3, -0.2, 0.1, 0.7], np.float32), "b": np.float32(0.2)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_modes_agree(mode, transform):
    found = transform(loss_gradients(losses, has_aux=True, mode=mode))(PARAMS, X)
    (values, aux), gradients = found
    for name in ("first", "second"):
        value, gradient = jax.value_and_grad(lambda p, name=name: losses(p, X)[0][name])(PARAMS)
        np.testing.assert_allclose(values[name], value, rtol=1e-6)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), gradients[name], gradient)
    np.testing.assert_allclose(aux["real_score"], losses(PARAMS, X)[1]["real_score"], rtol=1e-6)


def test_one_function_a_name_under_checkpoint_and_vmap():
    functions = {name: lambda p, x, name=name: losses(p, x)[0][name] for name in ("second", "first")}
    wanted = loss_gradients(lambda p, x: losses(p, x)[0])(PARAMS, X)
    for mode in MODES:
        rematerialised = {name: jax.checkpoint(f) for name, f in functions.items()}
        found = jax.vmap(loss_gradients(rematerialised, mode=mode), in_axes=(None, 0))(PARAMS, X[None])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6), found, wanted)


def test_eager_order_is_that_of_the_function():
    values, gradients = loss_gradients(losses, has_aux=True)(PARAMS, X)
    assert list(values[0]) == list(gradients) == ["second", "first"]


def test_combined_gradient():
    def of_each(p, x):
        found, aux = losses(p, x)
        return {"real": found["second"], "fake": found["first"]}, aux

    function = value_and_combined_grad(of_each, AdaptiveWeights(), has_aux=True)
    (values, _), gradient = jax.jit(
        lambda p: function(p, X, signals=lambda aux: {"real_score": aux["real_score"], "fake_score": 0.2})
    )(PARAMS)
    _, rows = loss_gradients(of_each, has_aux=True)(PARAMS, X)
    flat = np.stack([np.concatenate([np.ravel(x) for x in jax.tree.leaves(rows[n])]) for n in ("real", "fake")])
    score = np.asarray(losses(PARAMS, X)[1]["real_score"])
    weights = AdaptiveWeights()(flat @ flat.T, real_score=score, fake_score=np.asarray(0.2))
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
    np.testing.assert_allclose(found, weights @ flat, rtol=1e-5, atol=1e-6)
    assert set(values) == {"real", "fake"}


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import NamedSharding, PartitionSpec as P
from gradweight.optax import combine, loss_gradients
from gradweight.rules import AngleBisector
mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 3)), jnp.float32)
w = jnp.array([0.3, -0.4, 0.5])
def losses(w, x):
    return {"a": jnp.mean(jnp.tanh(x @ w)), "b": jnp.mean((x @ w - 1) ** 2)}
def averaged(w, x):
    return {name: jax.lax.pmean(loss, "batch") for name, loss in losses(w, x).items()}
def direction(w, x, losses=losses, axis_name=None, mode="each"):
    opt = combine(AngleBisector(), ("a", "b"), axis_name=axis_name)
    values, rows = loss_gradients(losses, mode=mode)(w, x)
    found, state = opt.update(rows, opt.init(w), w, losses=values)
    return found, state.losses, state.gram
one = jax.jit(direction)(w, x)
sharded = jax.device_put(x, NamedSharding(mesh, P("batch")))
ways = [jax.jit(direction)(w, sharded)]
def mapped(check_vma, **settings):
    function = partial(direction, **settings)
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P(), check_vma=check_vma)
ways += [jax.jit(mapped(False, axis_name="batch"))(w, x)]
ways += [jax.jit(mapped(True, losses=averaged, mode=mode))(w, x) for mode in ("each", "vmap", "vjp")]
per_device = jax.vmap(partial(direction, axis_name="batch"), axis_name="batch", in_axes=(None, 0))
per_device = jax.jit(per_device)(w, x.reshape(4, 2, 3))
ways += [[field[i] for field in per_device] for i in range(4)]
for other in ways:
    for a, b in zip(one, other):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
print("equal", len(jax.devices()))
for mode in ("each", "vmap"):
    try:
        jax.eval_shape(mapped(True, axis_name="batch", mode=mode), w, x)
    except ValueError as error:
        print(error)
"""


def test_the_batch_on_several_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", ON_DEVICES], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    equal, *errors = run.stdout.splitlines()
    assert equal == "equal 4"
    assert len(errors) == 2
    for error in errors:
        assert "axis_name='batch') needs the gradients of each device's own losses; got their sum over 'batch'" in error


def flops(function, *args):
    return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def test_losses_on_separate_batches_cost_what_they_cost():
    """The operations of "each" are those of the summed loss: nothing is done twice, no zeros are multiplied."""
    w, x = jnp.zeros((64, 64)), jnp.ones((128, 64))

    def losses(w, x, y):
        return {"x": jnp.sum(jnp.tanh(x @ w) ** 2), "y": jnp.sum(jnp.tanh(y @ w))}

    def summed(w, x, y):
        found = losses(w, x, y)
        return sum(found.values()), found

    plain = flops(jax.value_and_grad(summed, has_aux=True), w, x, x)
    assert flops(loss_gradients(losses), w, x, x) <= plain + 10


@pytest.mark.parametrize("sizes", [[10_000], [5_000, *[250] * 20]], ids=["one parameter", "many small ones"])
@pytest.mark.parametrize("rule", [AngleBisector(), UPGrad()], ids=lambda rule: type(rule).__name__)
def test_gram_matrix_and_combination_take_nine_operations_for_each_parameter(rule, sizes):
    p = [jnp.ones(size) for size in sizes]
    opt, k = combine(rule, ("a", "b")), 10_000
    # and some for the matrix and the rule, some for each array
    assert flops(lambda rows: opt.update(rows, opt.init(p), p), {"a": p, "b": p}) <= 9 * k + 250 + 15 * len(p)
