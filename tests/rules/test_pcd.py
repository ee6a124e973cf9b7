"""PCD: against the peer's, a solver of the program as it is written, and the shares that it guarantees."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from gradweight.rules import PCD


def first_weights(rule, rows, names):
    gram = rows @ rows.T
    return rule.update(gram, rule.init(gram), names=names)[0]


@pytest.mark.parametrize("tau", [0.02, 0.5])
def test_is_the_program(tau):
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows = rng.standard_normal((3, 5)) * 10.0 ** rng.uniform(-2, 2, (3, 1))
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        solved = minimize(
            lambda d, unit=unit: ((d - unit[1]) ** 2).sum(),
            unit[1],
            constraints=[{"type": "ineq", "fun": lambda d, u=unit[i]: u @ d - tau} for i in (0, 2)],
            options={"ftol": 1e-15},
        ).x
        direction = first_weights(PCD("b", tau), rows, ("a", "b", "c")) @ rows
        # SLSQP
        np.testing.assert_allclose(direction / np.linalg.norm(direction), solved / np.linalg.norm(solved), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(direction), np.linalg.norm(rows[1]), rtol=1e-12)


def test_is_the_peers():
    peer = pytest.importorskip("torchjd.aggregation")
    theirs, ours = peer.PCDWeighting(tau=0.3, beta=0.9, eps=0.0), PCD("a", tau=0.3, beta=0.9)
    generator, state = torch.Generator().manual_seed(0), None
    for _ in range(5):
        rows = torch.randn(4, 6, generator=generator, dtype=torch.float64) * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
        gram = rows @ rows.T
        weights, state = ours.update(gram, ours.init(gram) if state is None else state, names=tuple("abcd"))
        torch.testing.assert_close(weights, theirs(gram), rtol=1e-8, atol=1e-10)


def test_shares_by_name_and_what_cannot_be_had():
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    weights = first_weights(PCD("a", {"b": 0.5, "c": 0.25}), rows, ("a", "b", "c"))
    np.testing.assert_allclose(weights / weights[0], [1, 0.5, 0.25])
    opposed = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    np.testing.assert_allclose(first_weights(PCD("a"), opposed, ("a", "b", "c")), [1, 0, 0])
    np.testing.assert_array_equal(first_weights(PCD("a"), np.array([[0.0, 0.0], [0.0, 1.0]]), ("a", "b")), 0)
    np.testing.assert_allclose(first_weights(PCD("a"), np.array([[2.0]]), ("a",)), [1])


def test_errors():
    with pytest.raises(ValueError, match=r"PCD needs tau in \(0, 1\]; got 0"):
        PCD("a", 0.0)
    with pytest.raises(ValueError, match=r"PCD needs tau for 'b' in \(0, 1\]; got 2"):
        PCD("a", {"b": 2.0})
    with pytest.raises(ValueError, match="PCD has no tau for the loss 'c'"):
        first_weights(PCD("a", {"b": 0.5}), np.eye(2), ("a", "c"))
