"""SDMGrad against the paper's algorithm on vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from gradweight.rules import SDMGrad

from ..strategies import SEEDS, regular_sets
from .test_modo import sorted_projection


@given(regular_sets(min_m=2, max_m=6, max_ratio=10), SEEDS)
def test_steps_of_sdmgrad(rows: np.ndarray, seed: int) -> None:
    rule = SDMGrad(lam=0.4, lr=0.3, momentum=0.6, iterations=4)
    other = rows + 0.1 * np.random.default_rng(seed).standard_normal(rows.shape)
    gram, m = rows @ rows.T, len(rows)
    a = rows @ other.T / np.linalg.norm(rows, axis=1).mean() ** 2
    w, state = np.full(m, 1 / m), rule.init(gram)
    for _ in range(2):
        velocity = 0 * w
        for _ in range(4):
            velocity = 0.6 * velocity + a @ w + 0.4 * a.mean(axis=1)
            w = sorted_projection(w - 0.3 * velocity)
        weights, state = rule.update(gram, state, cross=rows @ other.T)
        np.testing.assert_allclose(weights, (w + 0.4 / m) / 1.4, atol=1e-12)


def test_the_scale_of_gradients_does_not_matter_to_sdmgrad() -> None:
    gram = np.array([[2.0, -0.5], [-0.5, 1.0]])
    for scale in (1e-30, 1e30):
        first, second = (SDMGrad().update(g, SDMGrad().init(g))[0] for g in (gram, gram * scale))
        np.testing.assert_allclose(first, second, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lam": -1.0}, "SDMGrad needs lam >= 0 and finite; got"),
        ({"lr": 0.0}, "SDMGrad needs lr > 0 and finite; got"),
        ({"momentum": 1.0}, "momentum in"),
        ({"iterations": 0}, "SDMGrad needs iterations >= 1; got"),
    ],
)
def test_errors(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SDMGrad(**arguments)
