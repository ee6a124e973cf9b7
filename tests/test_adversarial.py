"""The formulas of adversarial training: on NumPy, torch and JAX the same, in no less than single precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradweight import adversarial

DRAW = np.random.default_rng(0).standard_normal
PIECES = [DRAW((4, 3)), DRAW((4, 2, 2))]
FORMULAS = {
    "alpha_loss": lambda some: adversarial.alpha_loss(some[0], 3.0),
    "ranked_above": lambda some: adversarial.ranked_above(*some),
    "inner_product": lambda some: adversarial.inner_product(some, [some[0] + 1, some[1] - 1]),
    "squared_norm_without_bias": adversarial.squared_norm_without_bias,
    "distance_from_1": lambda some: adversarial.distance_from_1((some[0] ** 2).sum(1)),
}


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


@pytest.mark.parametrize("name", FORMULAS)
def test_three_libraries_agree(jax, name):
    wanted = FORMULAS[name](PIECES)
    np.testing.assert_allclose(FORMULAS[name]([torch.tensor(piece) for piece in PIECES]), wanted, rtol=1e-12)
    with jax.enable_x64(True):
        np.testing.assert_allclose(FORMULAS[name]([jax.numpy.asarray(p) for p in PIECES]), wanted, rtol=1e-12)


def test_wide(jax):
    for narrow in (torch.ones(1, dtype=torch.bfloat16), np.ones(1, np.float16), jax.numpy.ones(1, jax.numpy.bfloat16)):
        assert "float32" in str(adversarial.wide(narrow).dtype)
    x = torch.ones(1, dtype=torch.float64)
    assert adversarial.wide(x) is x


def test_squared_norm_without_bias_is_the_mean_over_pairs():
    rows = np.concatenate([piece.reshape(4, -1) for piece in PIECES], 1)
    gram = rows @ rows.T
    pairs = (gram.sum() - np.trace(gram)) / 12
    np.testing.assert_allclose(adversarial.squared_norm_without_bias(PIECES), pairs, rtol=1e-12)
