"""The alpha-loss in JAX against its twin in torch, whose digits are tested against two hundred of them."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
import torch

from gradweight import gan
from gradweight.optax.gan import alpha_loss

# far on either side, and just beside where a formula ends: x = b log D = -1 at alpha = 3 is s = -1.25
LOGITS = np.array([-700.0, -30.0, -3.0, -1.3, -1.2, -0.5, -0.0, 0.0, 0.2, 4.0, 40.0, 700.0])


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0, math.inf])
def test_alpha_loss(alpha):
    """With its first three derivatives, where the discriminator is sure, too."""
    s = torch.tensor(LOGITS, requires_grad=True)
    wanted = gan.alpha_loss(s, alpha)

    def function(s):
        return alpha_loss(s, alpha)

    for _ in range(4):
        # below 1e-300 there are fewer bits
        found = jax.jit(jax.vmap(function))(LOGITS)
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-12, atol=1e-300)
        (wanted,) = torch.autograd.grad(wanted.sum(), s, create_graph=True)
        function = jax.grad(function)
    with pytest.raises(ValueError, match=r"alpha_loss needs alpha in \(0, inf\]; got 0"):
        alpha_loss(LOGITS, 0)
