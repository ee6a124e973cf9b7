"""Smooth Tchebycheff: the gradient of its scalarisation, and a concave front."""

import numpy as np
import pytest
import torch

from gradweight.rules import SmoothTchebycheff

PREFERENCE, IDEAL, NAMES = {"a": 0.2, "b": 0.5, "c": 0.3}, {"a": 0.1, "b": -1.0, "c": 0.0}, ("a", "b", "c")


def test_weights_are_the_gradient_of_the_soft_maximum():
    losses = torch.tensor([1.0, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    p, z = (torch.tensor(list(d.values()), dtype=torch.float64) for d in (PREFERENCE, IDEAL))
    (0.3 * torch.logsumexp(p * (losses - z) / 0.3, 0)).backward()
    rule = SmoothTchebycheff(PREFERENCE, mu=0.3, ideal=IDEAL)
    found = rule(torch.eye(3, dtype=torch.float64), losses=losses.detach(), names=NAMES)
    torch.testing.assert_close(found, losses.grad)


def test_reaches_the_middle_of_a_concave_front():
    """Losses (x, sqrt(1 - x^2)) to be minimised: every weighted sum ends at 0 or 1, the soft maximum does not."""
    x, rule = 0.3, SmoothTchebycheff(mu=0.01)
    for _ in range(2000):
        losses = np.array([x, np.sqrt(1 - x * x)])
        gradients = np.array([[1.0], [-x / losses[1]]])
        x -= 0.002 * (gradients.T @ rule(gradients @ gradients.T, losses=losses)).item()
    # within a step of where the losses are equal
    assert x == pytest.approx(np.sqrt(0.5), abs=5e-3)


def test_large_losses_do_not_overflow():
    weights = SmoothTchebycheff(mu=1e-3)(np.eye(2), losses=np.array([1e6, 2e6]))
    np.testing.assert_allclose(weights, [0, 0.5])


def test_errors():
    with pytest.raises(ValueError, match="SmoothTchebycheff needs mu > 0 and finite; got 0"):
        SmoothTchebycheff(mu=0)
    with pytest.raises(ValueError, match="SmoothTchebycheff needs preferences >= 0 and finite; got -1 for 'a'"):
        SmoothTchebycheff({"a": -1})
