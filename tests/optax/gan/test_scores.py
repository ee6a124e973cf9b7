"""Scores in JAX against their twins in torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gradweight import gan
from gradweight.optax.gan import critic_scores, probability_scores

LOGITS = np.array([-30.0, -3.0, -0.5, 0.0, 0.2, 4.0, 40.0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ours", [probability_scores, critic_scores])
def test_scores(ours, sign):
    real, fake = LOGITS, LOGITS[::-1] * 0.5
    wanted = getattr(gan, ours.__name__)(torch.tensor(real), torch.tensor(fake.copy()), sign=sign)
    for key, found in ours(real, fake, sign=sign).items():
        np.testing.assert_allclose(found, wanted[key].numpy(), rtol=1e-12)
    assert not jax.grad(lambda r: ours(r, fake)["real_score"])(real).any()
    assert ours(jnp.bfloat16(real), jnp.bfloat16(fake))["fake_score"].dtype == np.float32
    with pytest.raises(ValueError, match=f"{ours.__name__} needs sign 1"):
        ours(real, fake, sign=0)
