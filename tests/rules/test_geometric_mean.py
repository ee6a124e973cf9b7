"""The geometric mean's weights are its gradient."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import GeometricMean


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_weights_are_the_gradient(values):
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    losses.log().mean().exp().backward()
    found = GeometricMean()(torch.eye(len(values), dtype=torch.float64), losses=losses.detach())
    torch.testing.assert_close(found, losses.grad, rtol=1e-11, atol=0)


def test_losses_without_gradient_are_no_factor():
    found = GeometricMean()(np.diag([1.0, 0.0, 1.0]), losses=np.array([1.0, 1e9, 4.0]))
    np.testing.assert_allclose(found, [1.0, 0.0, 0.25])


def test_a_loss_at_zero_stays_finite():
    assert np.isfinite(GeometricMean()(np.eye(2), losses=np.array([0.0, 1.0]))).all()
