"""DB-MTL against its algorithm on vectors, with its buffer and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradweight.rules import DBMTL

from .averaged_training import batch, followed, losses_of, network, trained, wrapped


class Balanced:
    """Algorithm 1 as published: gradients of the logarithms, a buffer, all as long as the longest."""

    def __init__(self, beta: float, decay: float) -> None:
        self.beta, self.decay, self.buffer = beta, decay, np.zeros(())

    def __call__(self, step: int, rows: np.ndarray, losses: np.ndarray, due: Any) -> np.ndarray:
        rows = rows / losses[:, None]
        self.buffer = rows + self.beta / step**self.decay * (self.buffer - rows)
        norms = np.linalg.norm(self.buffer, axis=1)
        return np.asarray((norms.max() / norms) @ self.buffer)


@pytest.mark.parametrize(("beta", "decay"), [(0.9, 0.5), (0.3, 0.0), (0.0, 0.5)])
def test_algorithm_1_on_vectors(beta: float, decay: float) -> None:
    dues = [None] * 5
    expected = followed(Balanced(beta, decay), dues)
    np.testing.assert_allclose(trained(DBMTL(beta, decay), dues), expected, rtol=1e-10, atol=1e-12)


def test_without_a_buffer_nothing_is_kept() -> None:
    kept = {}
    for beta in (0.0, 0.5):
        net = network()
        opt = wrapped(DBMTL(beta=beta), net)
        opt.backward(losses_of(net, batch(1)))
        opt.step()
        kept[beta] = sum(
            v.numel() for state in opt.state.values() for v in state.values() if isinstance(v, torch.Tensor)
        )
    assert kept == {0.0: 0, 0.5: 3 * sum(p.numel() for p in network().parameters())}


def test_a_negative_loss_has_no_logarithm() -> None:
    gram, losses = np.eye(2), np.array([1.0, -1.0])
    for beta in (0.0, 0.5):
        rule = DBMTL(beta=beta)
        state = rule.init(gram)
        if rule.average is None:
            assert np.isnan(rule.update(gram, state, losses=losses)[0]).all()
        else:
            assert np.isnan(rule.average(state, losses=losses)[1]).tolist() == [False, True]
