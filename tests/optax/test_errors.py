"""Mistakes are errors that name what was needed and what came."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from gradweight.optax import accumulate, combine, loss_gradients, stack, value_and_combined_grad
from gradweight.rules import FAMO, AdaptiveWeights, AngleBisector, MConFIG, Sum, from_torchjd

NAMES = ("real", "fake")
PARAMS = {"w": np.zeros((3, 2))}


def updated(rule, updates, params=PARAMS, **extra):
    opt = combine(rule, NAMES)
    return opt.update(updates, opt.init(PARAMS), params, **extra)


ROWS = {"w": jnp.ones((2, 3, 2))}


@pytest.mark.parametrize(
    ("updates", "params", "message"),
    [
        (PARAMS, PARAMS, r"losses \['real', 'fake'\], shape \(2, 3, 2\); got shape \(3, 2\) at \['w'\]"),
        (PARAMS, None, r"shape \(m, \.\.\.\) = \(2, \.\.\.\); got shape \(3, 2\) at \['w'\]"),
        ({"w": np.zeros((2, 2, 3))}, PARAMS, r"shape \(2, 3, 2\); got shape \(2, 2, 3\)"),
        ({"real": PARAMS, "false": PARAMS}, PARAMS, r"made for the losses \['real', 'fake'\]; got updates of \['false"),
    ],
)
def test_updates_that_are_not_rows(updates, params, message):
    with pytest.raises(ValueError, match=message):
        updated(Sum(), updates, params)


def test_signals():
    with pytest.raises(TypeError, match=r"AdaptiveWeights needs the signal 'fake_score'; update\(\) was given \['real"):
        updated(AdaptiveWeights(), ROWS, real_score=0.5)
    for score in (5.0, np.float32(5), jnp.array([5.0])):
        with pytest.raises(
            ValueError, match=r"the signal 'real_score' in \[0, 1\]; got 5.0. Of logits, probability_scores"
        ):
            updated(AdaptiveWeights(), ROWS, real_score=score, fake_score=0.5)
    with pytest.raises(TypeError, match=r"FAMO needs the signal 'losses'; update\(\) was given no signals"):
        updated(FAMO(), ROWS)
    with pytest.raises(ValueError, match=r"made for the losses \['real', 'fake'\]; got losses \['fake'\]"):
        updated(FAMO(), ROWS, losses={"fake": 1.0})
    with pytest.raises(ValueError, match=r"one loss for each of \['real', 'fake'\]; got shape \(3,\)"):
        updated(FAMO(), ROWS, losses=np.ones(3))


def test_rules():
    with pytest.raises(TypeError, match="Identity keeps its state in torch"):
        combine(torch.nn.Identity(), NAMES)
    aggregation = pytest.importorskip("torchjd.aggregation")
    with pytest.raises(TypeError, match="FromTorchJD keeps its state in torch"):
        combine(from_torchjd(aggregation.MeanWeighting()), NAMES)
    with pytest.raises(TypeError, match=r"write AngleBisector\(\)"):
        combine(AngleBisector, NAMES)
    with pytest.raises(ValueError, match=r"one weight per loss, shape \(2,\); got shape \(2, 2\)"):
        updated(lambda gram: gram, ROWS)
    with pytest.raises(TypeError, match="weights as a JAX array; got list"):
        updated(lambda gram: [1.0, 1.0], ROWS)
    with pytest.raises(TypeError, match="FAMO remembers or counts steps: use combine"):
        value_and_combined_grad(dict, FAMO())


@pytest.mark.parametrize("names", ["real", (), ("a", "a"), 0, -1])
def test_names(names):
    with pytest.raises(ValueError, match="combine needs the names of the losses, each once, or how many"):
        combine(Sum(), names)
    with pytest.raises(ValueError, match="accumulate needs the names of the losses, each once, or how many"):
        accumulate(combine(Sum(), NAMES), 2, names)


def test_numbers():
    with pytest.raises(ValueError, match="refresh_every of at least 1; got 0"):
        combine(Sum(), NAMES, refresh_every=0)
    with pytest.raises(ValueError, match="n of at least 1; got 0"):
        accumulate(combine(Sum(), NAMES), 0, NAMES)
    with pytest.raises(ValueError, match=r"stack was made for the losses \['real', 'fake'\]"):
        stack({"real": 1.0}, NAMES)


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        (lambda w: w, TypeError, "mapping name -> scalar; got"),
        (lambda w: {}, ValueError, "at least one loss"),
        (lambda w: {"a": w}, ValueError, r"the loss 'a' must be a scalar; got shape \(2,\)"),
        (lambda w: {"a": jnp.sum(w) > 0}, TypeError, "the loss 'a' must be real and floating-point; got bool"),
    ],
)
def test_losses(losses, error, message):
    with pytest.raises(error, match=message):
        loss_gradients(losses)(jnp.ones(2))
    with pytest.raises(ValueError, match="mode 'each', 'vmap' or 'vjp'; got 'both'"):
        loss_gradients(losses, mode="both")
    with pytest.raises(TypeError, match="has_aux needs one function"):
        loss_gradients({"a": losses}, has_aux=True)


def test_multi_steps_of_optax_has_no_room_for_rows():
    opt = optax.MultiSteps(optax.chain(combine(Sum(), NAMES), optax.sgd(1.0)), 2)
    with pytest.raises(
        ValueError, match=r"got shape \(3, 2\) .* from gradweight.optax.accumulate: optax.MultiSteps keeps"
    ):
        opt.update(ROWS, opt.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="fake real"):  # optax adds them to the parameters' zeros before it calls us
        opt.update(dict.fromkeys(NAMES, PARAMS), opt.init(PARAMS), PARAMS)


def test_a_gradient_where_rows_are_needed():
    """As after a transformation that combines already, in the wrong order."""
    opt = optax.chain(combine(Sum(), NAMES), combine(Sum(), NAMES))
    with pytest.raises(ValueError, match=r"got shape \(3, 2\) at \['w'\]: take them from loss_gradients"):
        opt.update(ROWS, opt.init(PARAMS), PARAMS)


def test_averages_of_gradients():
    with pytest.raises(TypeError, match=r"combine keeps no averages of the gradients .* which MConFIG asks for"):
        combine(MConFIG(), NAMES)
