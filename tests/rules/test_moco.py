"""MoCo against its algorithm on vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradweight.rules import MGDA, MoCo

from .averaged_training import batch, followed, losses_of, network, trained, wrapped
from .test_modo import sorted_projection


class Corrected:
    """Algorithm 1, with the defaults and the lengths of the published code."""

    def __init__(self, rule: MoCo) -> None:
        self.rule, self.y, self.w = rule, np.zeros(()), np.full(3, 1 / 3)

    def __call__(self, step: int, rows: np.ndarray, losses: np.ndarray, due: Any) -> np.ndarray:
        rule = self.rule
        if rule.by_loss:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) * losses[:, None]
        self.y = self.y - rule.beta / step**rule.beta_decay * (self.y - rows)
        gradient = self.y @ (self.y.T @ self.w) + rule.rho * self.w
        self.w = sorted_projection(self.w - rule.gamma / step**rule.gamma_decay * gradient)
        return np.asarray(self.w @ self.y)


@pytest.mark.parametrize(
    "rule",
    [MoCo(), MoCo(by_loss=True, rho=0.1), MoCo(beta=1.0, beta_decay=0.0, gamma=0.01, gamma_decay=1.0)],
    ids=["as it is", "by loss", "no memory"],
)
def test_algorithm_1_on_vectors(rule: MoCo) -> None:
    dues = [None] * 5
    np.testing.assert_allclose(trained(rule, dues), followed(Corrected(rule), dues), rtol=1e-10, atol=1e-12)


def test_the_weights_approach_those_of_mgda_where_the_averages_stand_still() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 5))
    gram = rows @ rows.T
    rule = MoCo(gamma=0.1, gamma_decay=0.0)
    state = rule.init(gram)
    for _ in range(500):
        weights, state = rule.update(gram, state)
    np.testing.assert_allclose(weights, MGDA()(gram), atol=1e-6)


def test_an_average_of_small_batches_is_nearer_to_the_gradient() -> None:
    """What it is for: of a quadratic whose gradient is seen with noise, in the same place."""
    rng, truth = np.random.default_rng(1), np.array([1.0, -2.0, 0.5])
    rule = MoCo(beta=0.5, beta_decay=0.5)
    state, y = rule.init(np.eye(1)), np.zeros(3)
    errors = []
    for _ in range(200):
        row = truth + rng.standard_normal(3)
        keep, new, state = rule.average(state, due=np.ones(1))
        y = keep * y + new * row
        _, state = rule.update(np.eye(1), state)
        errors.append(np.linalg.norm(y - truth))
    assert np.mean(errors[-50:]) < 0.5 * np.sqrt(3)


def test_a_negative_loss_has_no_length() -> None:
    """Times L / |g| its gradient would be followed uphill."""
    net = network()
    opt = wrapped(MoCo(by_loss=True), net)
    losses = losses_of(net, batch(1))
    opt.backward(losses | {"b": losses["b"] - 100})
    assert all(p.grad is not None and p.grad.isnan().all() for p in net.parameters())
    assert opt.last is not None
    assert opt.last.weights.isnan().all()
