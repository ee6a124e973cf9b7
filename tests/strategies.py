"""Hypothesis strategies for gradients: pairs at a given angle, and sets with every kind of degeneracy.

All are float64 arrays with one gradient per row, as a rule's Gram matrix would be formed from them. `angle`,
`direction` and `size` are the measuring instruments that go with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradweight.rule import Array, Rule, Signals, StatefulRule

EPS = float(np.finfo(np.float64).eps)

DIMENSIONS = st.one_of(st.integers(2, 8), st.sampled_from([2, 3, 100, 1_000, 10_000]))

SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Pair:
    """Two gradients, (2, k), and the angle between them in radians, as `angle` measures it."""

    rows: np.ndarray
    angle: float

    @property
    def sine(self) -> float:
        return float(np.sin(self.angle))


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Gradients in dimension 2 to 10^4, norm ratio 1e-12 to 1e12, angle 1e-5 to 180 - 1e-5 degrees.

    Nearer than that their cosine, as far as float64 knows it, is 1 or -1.
    """
    dimension, ratio = draw(DIMENSIONS), draw(st.floats(-12, 12))
    first_norm = 10.0 ** draw(st.floats(-30, 30))
    # half of the draws are spread evenly, the others by order of magnitude towards 0 or 180 degrees
    from_line = draw(st.one_of(st.floats(1, 90), st.floats(-5, 0).map(lambda power: 10.0**power)))
    degrees = from_line if draw(st.booleans()) else 180 - from_line
    basis, _ = np.linalg.qr(np.random.default_rng(draw(SEEDS)).standard_normal((dimension, 2)))
    radians = np.deg2rad(degrees)
    units = np.stack([basis[:, 0], np.cos(radians) * basis[:, 0] + np.sin(radians) * basis[:, 1]])
    rows = units * np.array([[first_norm], [first_norm * 10.0**ratio]])
    return Pair(rows, angle(rows[0], rows[1]))


@st.composite
def structured_sets(draw: st.DrawFn, min_m: int = 1, max_m: int = 8) -> np.ndarray:
    """Gradients of m losses with small integer entries: rank-deficient, duplicated, opposed and zero ones.

    Their Gram matrix is exact, so that what is exactly dependent or exactly zero stays so.
    """
    m, dimension = draw(st.integers(min_m, max_m)), draw(st.integers(1, 8))
    rows = np.random.default_rng(draw(SEEDS)).integers(-3, 4, size=(m, dimension)).astype(np.float64)
    for i in range(m):
        j = draw(st.integers(0, m - 1))
        change = draw(st.sampled_from(["keep", "keep", "keep", "duplicate", "oppose", "zero"]))
        rows[i] = {"keep": rows[i], "duplicate": rows[j], "oppose": -rows[j], "zero": 0 * rows[i]}[change]
    return rows


@st.composite
def regular_sets(draw: st.DrawFn, min_m: int = 1, max_m: int = 8, max_ratio: float = 1e6) -> np.ndarray:
    """Gradients of m losses in general position: unit rows well away from dependence, of very different norms."""
    m = draw(st.integers(min_m, max_m))
    rows = np.random.default_rng(draw(SEEDS)).standard_normal((m, m + draw(st.integers(2, 12))))
    power = np.log10(max_ratio) / 2
    scale = [10.0 ** draw(st.floats(-power, power)) for _ in range(m)]
    rows *= np.array(scale)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def angle(x: np.ndarray, y: np.ndarray) -> float:
    """Angle in radians by half-angle tangent, right to a few eps near 0 and 180 degrees, where arccos is not."""
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(2 * np.arctan2(np.linalg.norm(x - y), np.linalg.norm(x + y)))


def weights(rule: Rule, rows: np.ndarray, names: tuple[str, ...] | None = None, **signals: Any) -> np.ndarray:
    """What the rule answers to these gradients in NumPy, asked as the optimizer asks."""
    return weights_of_gram(rule, rows @ rows.T, names, **signals)


def weights_of_gram(rule: Rule, gram: Array, names: tuple[str, ...] | None = None, **signals: Any) -> Array:
    """What the rule answers to this Gram matrix, in whatever library it is; a stateful rule on its first step."""
    given = Signals.of(rule).select({"names": names, "losses": 0 * gram[0] + 1, **signals})
    if isinstance(rule, StatefulRule):
        return rule.update(gram, rule.init(gram), **given)[0]
    return rule(gram, **given)  # type: ignore[operator]


def direction(rule: Rule, rows: np.ndarray, names: tuple[str, ...] | None = None, **signals: Any) -> np.ndarray:
    """``sum_i weights[i] * rows[i]``."""
    return weights(rule, rows, names, **signals) @ rows


def size(weights: np.ndarray, rows: np.ndarray) -> float:
    """``sum_i |weights[i]| |rows[i]|``: what the rounding error of a direction is proportional to."""
    return float(np.abs(weights) @ np.linalg.norm(rows, axis=1))
