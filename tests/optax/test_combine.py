"""`combine` against what it stands for: the rule on the Gram matrix, and the weighted sum, in float64."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradweight.optax import accumulate, combine, loss_gradients, stack
from gradweight.rules import FAMO, AdaptiveWeights, AngleBisector, CAGrad, GradDrop, PINNAnnealing, Sum, UPGrad

NAMES = ("real", "fake")
SCORES = {"real_score": 0.6, "fake_score": 0.3}


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield


def gradients(seed=0, names=NAMES, dtype=np.float64):
    draw = np.random.default_rng(seed).standard_normal
    return {n: {"bias": jnp.asarray(draw(3), dtype), "kernel": jnp.asarray(draw((2, 3)), dtype)} for n in names}


PARAMS = {"bias": jnp.zeros(3), "kernel": jnp.zeros((2, 3))}


def params(dtype=np.float64):
    return jax.tree.map(lambda p: np.zeros(p.shape, dtype), PARAMS)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def expected(rule, found, **signals):
    rows = np.stack([flat(found[name]) for name in found])
    return rule(rows @ rows.T, **signals) @ rows


def test_three_forms_are_one_direction():
    found, rule = gradients(), AdaptiveWeights()
    opt = combine(rule, NAMES)
    state = opt.init(params())
    forms = [found, {n: found[n] for n in ("fake", "real")}, stack(found, NAMES), [found[n] for n in NAMES]]
    wanted = expected(rule, found, **SCORES)
    for form in forms:
        direction, new = opt.update(form, state, params(), **SCORES)
        np.testing.assert_allclose(flat(direction), wanted, rtol=1e-12)
    direction, _ = opt.update(stack(found, NAMES), state, **SCORES)  # without parameters
    np.testing.assert_allclose(flat(direction), wanted, rtol=1e-12)
    assert int(new.step) == 1
    assert new.gram[0, 1] == new.gram[1, 0]


def test_losses_without_names():
    found, rule = gradients(), UPGrad()
    opt = accumulate(optax.chain(combine(rule, 2), optax.sgd(1.0)), 2, 2)
    state = opt.init(params())
    for rows in (stack(found, NAMES), [found[n] for n in NAMES]):
        direction, state = opt.update(rows, state, params(), losses=jnp.ones(2))
    np.testing.assert_allclose(flat(direction), -2 * expected(rule, found), rtol=1e-12)
    np.testing.assert_array_equal(optax.tree_utils.tree_get(state.inner_state, "losses"), [2, 2])
    with pytest.raises(ValueError, match=r"made for the losses \['0', '1'\]; got updates of"):
        opt.update(found, state, params())


def test_in_a_chain_under_scan_with_what_others_need():
    opt = optax.chain(combine(FAMO(), NAMES), optax.adam(1e-2))

    def step(carry, scale):
        p, state = carry
        updates, state = opt.update(
            jax.tree.map(lambda g: g * scale, gradients()), state, p, losses={"fake": scale, "real": 2 * scale}, value=0
        )
        return (optax.apply_updates(p, updates), state), optax.tree_utils.tree_get(state, "weights")

    (_, state), weights = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(1.0, 4.0)))((params(), opt.init(params())))
    rule, rows = FAMO(), np.stack([flat(gradients()[n]) for n in NAMES])
    remembered = None
    for scale, found in zip((1.0, 2.0, 3.0), weights, strict=True):
        gram = scale**2 * rows @ rows.T
        remembered = rule.init(gram) if remembered is None else remembered
        wanted, remembered = rule.update(gram, remembered, losses=scale * np.array([2.0, 1.0]))
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
    np.testing.assert_array_equal(optax.tree_utils.tree_get(state, "losses"), [6.0, 3.0])
    again = pickle.loads(pickle.dumps(state))
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_orbax_restores_every_bit(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    opt = optax.chain(combine(FAMO(), NAMES), optax.adam(1e-2))
    _, state = opt.update(gradients(), opt.init(params()), params(), losses=np.array([0.1, 0.7]))
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", state)
        saver.wait_until_finished()
        again = saver.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_the_rows_that_are_summed_are_those_of_the_whole_batch():
    names, rule = ("a", "b", "c"), AngleBisector()
    parts = [gradients(seed, names) for seed in range(3)]
    opt = accumulate(combine(AdaptiveWeights(real="a", fake="b"), names), 3, names, signals=("real_score",))
    opt_without = accumulate(combine(rule, names), 3, names)
    state, scores = opt_without.init(params()), opt.init(params())
    step = jax.jit(lambda g, s: opt_without.update(g, s, params(), losses=dict.fromkeys(names, 1.0)))
    step_with_scores = jax.jit(lambda g, s, given: opt.update(g, s, params(), **given))
    for i, part in enumerate(parts):
        direction, state = step(part, state)
        given = {"real_score": [0.1, 0.2, 0.9][i], "fake_score": 0.3}
        with_scores, scores = step_with_scores(part, scores, given)
        if i < 2:
            assert not flat(direction).any()
            assert int(state.inner_state.step) == 0
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    np.testing.assert_allclose(flat(direction), expected(rule, total), rtol=1e-9)
    wanted = expected(AdaptiveWeights(), total, real_score=0.4, fake_score=0.3)
    np.testing.assert_allclose(flat(with_scores), wanted, rtol=1e-12)
    np.testing.assert_array_equal(state.inner_state.losses, 3.0)
    assert state.ready
    assert not flat(state.rows).any()


def test_held_weights():
    opt = combine(AngleBisector(), NAMES, refresh_every=2)
    update = jax.jit(lambda g, s: opt.update(g, s, params()))
    first, second = gradients(0), gradients(1)
    direction, state = update(first, opt.init(params()))
    np.testing.assert_allclose(flat(direction), expected(AngleBisector(), first), rtol=1e-12)
    direction, held = update(second, state)
    np.testing.assert_array_equal(held.weights, state.weights)
    np.testing.assert_allclose(
        flat(direction), sum(w * flat(second[n]) for w, n in zip(state.weights, NAMES, strict=True)), rtol=1e-12
    )
    direction, _ = update(second, held)
    np.testing.assert_allclose(flat(direction), expected(AngleBisector(), second), rtol=1e-12)
    second["fake"]["bias"] = second["fake"]["bias"].at[0].set(np.nan)
    direction, _ = update(second, state)
    assert np.isnan(flat(direction)).all()


@pytest.mark.parametrize("rule", [AngleBisector(), GradDrop(), Sum()], ids=repr)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_that_is_not_finite_reaches_every_update(rule, value):
    found, opt = gradients(), combine(rule, NAMES)
    found["fake"]["kernel"] = found["fake"]["kernel"].at[0, 0].set(value)
    direction, state = opt.update(found, opt.init(params()))
    assert np.isnan(flat(direction)).all()
    assert np.isnan(state.weights).all()


def test_trunk_combined_heads_summed():
    found = gradients()
    labels = {"bias": "head", "kernel": "trunk"}
    opt = optax.multi_transform({"trunk": combine(AngleBisector(), NAMES), "head": combine(Sum(), NAMES)}, labels)
    direction, _ = opt.update(stack(found, NAMES), opt.init(params()), params())
    np.testing.assert_allclose(direction["bias"], sum(found[n]["bias"] for n in NAMES), rtol=1e-12)
    trunk = {n: found[n]["kernel"] for n in NAMES}
    np.testing.assert_allclose(np.ravel(direction["kernel"]), expected(AngleBisector(), trunk), rtol=1e-12)
    masked = optax.masked(combine(AngleBisector(), NAMES), {"bias": False, "kernel": True})
    partly, _ = masked.update(stack(found, NAMES), masked.init(params()), params())
    np.testing.assert_array_equal(partly["kernel"], direction["kernel"])
    assert partly["bias"].shape == (2, 3)


def test_numbers_of_a_rule_on_a_schedule():
    @optax.inject_hyperparams
    def optimizer(c):
        return combine(CAGrad(), NAMES, fields={"c": c})

    opt, found = optimizer(c=lambda step: 0.2 + 0.3 * step), gradients()
    update = jax.jit(lambda s: opt.update(found, s, params()))
    state = opt.init(params())
    for c in (0.2, 0.5):
        direction, state = update(state)
        np.testing.assert_allclose(flat(direction), expected(CAGrad(c=c), found), rtol=1e-6)
    with pytest.raises(TypeError, match="CAGrad has no field 'd'"):
        combine(CAGrad(), NAMES, fields={"d": 1})


def test_half_precision_has_a_gram_matrix_in_float32():
    found = gradients(dtype=jnp.bfloat16)
    opt = combine(AngleBisector(), NAMES)
    direction, state = opt.update(found, opt.init(params(jnp.bfloat16)), params(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(direction)} == {jnp.dtype(jnp.bfloat16)}
    assert state.gram.dtype == np.float32
    rows = np.stack([flat(found[n]).astype(np.float64) for n in NAMES])
    np.testing.assert_allclose(state.gram, rows @ rows.T, rtol=1e-6)  # products of two bf16 are exact in float32


def test_complex_entries_are_two_coordinates():
    draw = np.random.default_rng(0).standard_normal
    found = {n: {"z": jnp.asarray(draw(4) + 1j * draw(4)), "x": jnp.asarray(draw(2))} for n in NAMES}
    zeros = jax.tree.map(jnp.zeros_like, found["real"])
    as_real = {n: {"x": g["x"], "z": jnp.stack([g["z"].real, g["z"].imag], -1)} for n, g in found.items()}
    for rule in (GradDrop(), PINNAnnealing("real")):
        opt = combine(rule, NAMES)
        direction, _ = jax.jit(lambda g, opt=opt: opt.update(g, opt.init(zeros), zeros))(found)
        real_zeros = jax.tree.map(jnp.zeros_like, as_real["real"])
        wanted, _ = jax.jit(lambda g, opt=opt, p=real_zeros: opt.update(g, opt.init(p), p))(as_real)
        np.testing.assert_allclose(direction["z"].real, wanted["z"][:, 0], rtol=1e-12)
        np.testing.assert_allclose(direction["z"].imag, wanted["z"][:, 1], rtol=1e-12)
        np.testing.assert_allclose(direction["x"], wanted["x"], rtol=1e-12)


def test_integers_and_holes_are_left_alone():
    p = {"w": jnp.ones(3), "n": jnp.array(2), "static": None}
    losses, found = loss_gradients(lambda p: {"real": (p["w"] ** 2).sum(), "fake": (p["n"] * p["w"]).sum()})(p)
    opt = optax.chain(combine(AngleBisector(), NAMES), optax.adam(0.1))
    updates, _ = opt.update(found, opt.init(p), p)
    assert float(losses["real"]) == 3
    new = optax.apply_updates(p, updates)
    assert new["n"] == 2
    assert new["static"] is None
    assert np.all(new["w"] < 1)


def test_one_optimizer_for_an_ensemble():
    opt, many = combine(UPGrad(), NAMES), [gradients(seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *many)
    direction, _ = jax.vmap(lambda g: opt.update(g, opt.init(params())))(stacked)
    for i, found in enumerate(many):
        np.testing.assert_allclose(
            flat(jax.tree.map(lambda x, i=i: x[i], direction)), expected(UPGrad(), found), rtol=1e-9
        )


def test_an_aggregator_of_optax():
    aggregating = pytest.importorskip("optax.experimental").aggregating
    opt = aggregating.process(optax.identity(), combine(AngleBisector(), NAMES), optax.sgd(1.0))
    found = gradients()
    updates, _ = opt.update(stack(found, NAMES), opt.init(params()), params())
    np.testing.assert_allclose(flat(updates), -expected(AngleBisector(), found), rtol=1e-12)


def test_an_aggregator_that_accumulates():
    """The steps of what comes after wait for the flag `ready`."""
    aggregating = pytest.importorskip("optax.experimental").aggregating
    before, after = map(optax.with_extra_args_support, (optax.identity(), optax.adam(0.1)))
    opt = aggregating.process(before, accumulate(combine(FAMO(), NAMES), 2, NAMES), after)
    state, found = opt.init(params()), stack(gradients(), NAMES)
    update = jax.jit(lambda state: opt.update(found, state, params(), losses={"real": 1.0, "fake": 2.0}))
    for count, ready in ((0, False), (1, True), (1, False)):
        updates, state = update(state)
        assert optax.tree_utils.tree_get(state, "ready") == ready
        assert optax.tree_utils.tree_get(state, "count") == count
        assert flat(updates).any() == ready


def test_a_step_that_is_not_finite_is_skipped_by_what_follows():
    opt, p = optax.chain(combine(Sum(), NAMES), optax.apply_if_finite(optax.sgd(0.1), 9)), params()
    state, found = opt.init(p), gradients()
    good, state = opt.update(found, state, p)
    assert flat(good).all()
    found["fake"]["bias"] = found["fake"]["bias"].at[0].set(np.nan)
    updates, state = opt.update(found, state, p)
    assert not flat(updates).any()
    assert optax.tree_utils.tree_get(state, "total_notfinite") == 1
