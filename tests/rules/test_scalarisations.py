"""PBI and COSMOS: their weights are the derivatives of their scalars by the losses."""

import numpy as np
import pytest
import torch

from gradweight.rules import COSMOS, PBI

NAMES = ("a", "b", "c")
P = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
TABLE = dict(zip(NAMES, P.tolist(), strict=True))


def pbi(losses):
    u, f = P / P.norm(), losses - 0.1
    along = u @ f
    return along + 3 * (f - along * u).norm()


def cosmos(losses):
    return P @ losses - 2 * torch.cosine_similarity(P, losses, dim=0)


@pytest.mark.parametrize(
    ("rule", "scalar"),
    [(PBI(TABLE, theta=3.0, ideal=dict.fromkeys(NAMES, 0.1)), pbi), (COSMOS(TABLE, strength=2.0), cosmos)],
    ids=["PBI", "COSMOS"],
)
def test_weights_are_the_derivative(rule, scalar):
    losses = torch.tensor([0.4, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(scalar(losses), losses)
    found = rule(torch.eye(3, dtype=torch.float64), names=NAMES, losses=losses.detach())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_on_the_ray_and_at_zero():
    gram = np.eye(2)
    np.testing.assert_allclose(PBI()(gram, losses=np.array([0.3, 0.3])), 0.5**0.5)
    np.testing.assert_allclose(PBI()(gram, losses=np.zeros(2)), 0.5**0.5)
    np.testing.assert_allclose(COSMOS()(gram, losses=np.array([0.3, 0.3])), 0.5, rtol=1e-12)
    np.testing.assert_allclose(COSMOS()(gram, losses=np.zeros(2)), 0.5)


def test_errors():
    with pytest.raises(ValueError, match="PBI needs theta >= 0"):
        PBI(theta=-1)
    with pytest.raises(ValueError, match="COSMOS needs strength >= 0"):
        COSMOS(strength=-1)
    with pytest.raises(ValueError, match="COSMOS has no preference for the loss 'c'"):
        COSMOS({"a": 1.0, "b": 1.0})(np.eye(3), names=NAMES, losses=np.ones(3))


@pytest.mark.parametrize("rule", [PBI({"a": 1.0}, ideal={"a": 0.5}), COSMOS({"a": 1.0})], ids=repr)
def test_tables_of_numbers_leave_a_rule_hashable(rule):
    assert rule in {rule}  # a mapping among the fields would have no hash
