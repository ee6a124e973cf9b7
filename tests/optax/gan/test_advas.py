"""AdvAs in JAX, with bias and without, against its twins in torch: the penalty and its gradient by the fake samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradweight import gan
from gradweight.optax.gan import advas_penalty, advas_penalty_half_batches, advas_penalty_unbiased

DRAW = np.random.default_rng(0).standard_normal
PHI, FAKE, REAL = {"a": DRAW((2, 3)), "b": DRAW(3)}, DRAW((5, 2)), DRAW((5, 2))


def loss(xp, softplus):
    """Of an adversary of two layers, in either library; of one sample or a batch."""

    def of(phi, fake, real):
        on_fake, on_real = (xp.tanh(x @ phi["a"]) @ phi["b"] for x in (fake, real))
        return {"fake": softplus(on_fake).mean(), "real": (on_real**2).mean()}

    return of


OURS = loss(jnp, jax.nn.softplus)


def theirs(phi, fake, real):
    return sum(loss(torch, torch.nn.functional.softplus)(phi, fake, real).values())


PENALTIES = {
    "of the batch": (
        lambda fake: advas_penalty(lambda phi: OURS(phi, fake, REAL), PHI),
        lambda phi, fake, real: gan.advas_penalty(lambda phi: theirs(phi, fake, real), phi),
    ),
    "of half batches": (
        lambda fake: advas_penalty_half_batches(OURS, PHI, fake, REAL),
        lambda phi, fake, real: gan.advas_penalty_half_batches(theirs, phi, fake, real),
    ),
    "of each sample": (
        lambda fake: advas_penalty_unbiased(OURS, PHI, fake, REAL),
        lambda phi, fake, real: gan.advas_penalty_unbiased(theirs, phi, fake, real),
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_the_penalty_and_its_gradient(name):
    ours, of_torch = PENALTIES[name]
    fake = torch.tensor(FAKE, requires_grad=True)
    wanted = of_torch({name: torch.tensor(p) for name, p in PHI.items()}, fake, torch.tensor(REAL))
    (slope,) = torch.autograd.grad(wanted, fake)
    found, gradient = jax.jit(jax.value_and_grad(ours))(FAKE)
    np.testing.assert_allclose(found, wanted.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope.numpy(), rtol=1e-10)


def test_complex_parameters_count_as_two():
    """Of a real loss of a complex and of two real parameters the penalty is the same."""
    z, x = jnp.array([1.0 + 2j, -0.5j]), FAKE[0]

    def of_parts(p):
        return (p["re"] @ x) ** 2 + p["im"] @ x

    found = advas_penalty(lambda z: of_parts({"re": z.real, "im": z.imag}), z)
    np.testing.assert_allclose(found, advas_penalty(of_parts, {"re": z.real, "im": z.imag}), rtol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match=r"must be a scalar; got shape \(3,\)"):
        advas_penalty(lambda phi: phi["b"], PHI)
    with pytest.raises(ValueError, match="half_batches needs at least 2 real samples; got 1"):
        advas_penalty_half_batches(OURS, PHI, FAKE, REAL[:1])
    with pytest.raises(ValueError, match="as many real samples as fake ones, at least 2; got 4 real and 5 fake"):
        advas_penalty_unbiased(OURS, PHI, FAKE, REAL[:4])
