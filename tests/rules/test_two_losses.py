"""The closed forms for two losses: equal to the general methods, and to the definitions in 120 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rule import Rule
from gradweight.rules import MGDA, CAGrad, DualProj, FairGrad, NashMTL, UPGrad

from ..strategies import EPS, pairs, size, weights

RULES = [MGDA(), UPGrad(), DualProj(), CAGrad(0.2), CAGrad(0.9), NashMTL(), FairGrad(0.2), FairGrad(0.5), FairGrad(7.0)]
every_rule = pytest.mark.parametrize("rule", RULES, ids=str)
DIGITS = 120
"""FairGrad(0.2) takes norms 1e10 apart to the fourth power, and digits must be left of a 1 + cos t as small as that."""

some_examples = settings(max_examples=30)


@st.composite
def two_gradients(draw: st.DrawFn) -> np.ndarray:
    """Norms up to 1e12 apart on scales of 1e-30 to 1e30, every angle, and equal, parallel, opposed and zero ones."""
    rows = draw(pairs()).rows.copy()
    kind = draw(st.sampled_from(["far", "far", "near", "near", "near", "equal", "parallel", "opposed", "zero"]))
    which = draw(st.integers(0, 1))
    # by a power of two, so that they are parallel to the last bit
    factor = 2.0 ** draw(st.integers(-40, 40))
    if kind == "near":
        # norms of one size, where neither gradient decides alone
        rows[1] *= draw(st.floats(0.3, 3)) * np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    elif kind != "far":
        rows[which] = {"equal": 1.0, "parallel": factor, "opposed": -factor, "zero": 0.0}[kind] * rows[1 - which]
    return rows


def exact_weights(rule: Rule, gram: np.ndarray) -> list[mpmath.mpf]:
    """Weights of two gradients neither of which is zero, from the definition, in `DIGITS` digits."""
    (g11, g12), (_, g22) = [[mpmath.mpf(float(x)) for x in row] for row in gram]
    if isinstance(rule, UPGrad):
        return [(1 - min(g12, 0) / g11) / 2, (1 - min(g12, 0) / g22) / 2]
    if isinstance(rule, DualProj):
        return [(1 - min(g11 + g12, 0) / g11) / 2, (1 - min(g12 + g22, 0) / g22) / 2]
    if isinstance(rule, MGDA):
        apart = g11 + g22 - 2 * g12
        first = min(max((g22 - g12) / apart, 0), 1) if apart > 0 else mpmath.mpf(1) / 2
        return [first, 1 - first]
    if isinstance(rule, CAGrad):
        radius = rule.c * mpmath.sqrt(g11 + g22 + 2 * g12) / 2

        def length(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.sqrt(max(x * x * g11 + 2 * x * (1 - x) * g12 + (1 - x) ** 2 * g22, 0))

        def slope(x: mpmath.mpf) -> mpmath.mpf:
            """The derivative of <g_v, g_0> + radius |g_v| with v = (x, 1 - x)."""
            return (g11 - g22) / 2 + radius * (x * g11 + (1 - 2 * x) * g12 - (1 - x) * g22) / length(x)

        x = root(slope, mpmath.mpf(0), mpmath.mpf(1))
        return [mpmath.mpf(1) / 2 + radius * v / length(x) for v in (x, 1 - x)]
    alpha = getattr(rule, "alpha", 1.0)
    beta, norms = 1 / mpmath.mpf(alpha), [mpmath.sqrt(g11), mpmath.sqrt(g22)]
    cos = g12 / norms[0] / norms[1]
    # y_i = w_i |g_i|; the second equation over the first, in the logarithm of y_2/y_1
    goal = (beta - 1) * mpmath.log(norms[1] / norms[0])
    end = -mpmath.log(-cos) if cos < 0 else mpmath.mpf(1000)

    def excess(x: mpmath.mpf) -> mpmath.mpf:
        t = mpmath.exp(x)
        return beta * x + mpmath.log((cos + t) / (1 + cos * t)) - goal

    t = mpmath.exp(root(excess, -end, end))
    first = (norms[0] ** (beta - 1) / (1 + cos * t)) ** (1 / (1 + beta))
    return [first / norms[0], first * t / norms[1]]


def root(increasing, low: mpmath.mpf, high: mpmath.mpf) -> mpmath.mpf:
    for _ in range(10 * DIGITS // 3):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return low


@every_rule
@some_examples
@given(rows=two_gradients())
def test_closed_form_is_the_definition(rule: Rule, rows: np.ndarray) -> None:
    gram, found = rows @ rows.T, weights(rule, rows)
    active = rows.any(axis=1)
    assert np.all(np.isfinite(found))
    assert np.all(found[~active] == 0)
    cos = gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1]) if active.all() else 0.0
    if not active.all() or abs(cos) >= 1 - 1e-15:
        return
    if not found.any():
        # a rounding error of the gradients, says the rule; DualProj's mean is one if the other is 1e7 times as long
        norms = np.sqrt(np.diagonal(gram))
        assert cos < -1 + 1e-11 or (isinstance(rule, DualProj | CAGrad) and norms.max() > 1e6 * norms.min())
        return
    with mpmath.workdps(DIGITS):
        error = [float(w - e) for w, e in zip(map(float, found), exact_weights(rule, gram), strict=True)]
    lengths = np.abs(error) * np.sqrt(np.diagonal(gram))
    # the cosine is right to eps, and what depends on 1 + cos, or on 1 - cos**2, to eps over that. FairGrad's powers of
    # norms of 1e40 lose two digits more. CAGrad's sqrt(1 - k**2) is right to sqrt(eps) where k is nearly 1.
    condition = 1 / (1 + cos) if not isinstance(rule, MGDA | CAGrad) else 1 / (1 - abs(cos))
    digits = 1e-13 if isinstance(rule, FairGrad) else 1e-14
    tolerance = digits * condition + 4e-8 * isinstance(rule, CAGrad)
    assert lengths.max() <= tolerance * size(found, rows)


def test_cagrad_between_the_gradients() -> None:
    """Where neither gradient decides alone, which the examples above seldom are."""
    rng, between = np.random.default_rng(0), 0
    for _ in range(40):
        rows = rng.standard_normal((2, 3)) * rng.uniform(0.5, 1.5, (2, 1))
        rule = CAGrad(rng.uniform(0.3, 0.95))
        found = weights(rule, rows)
        with mpmath.workdps(DIGITS):
            expected = np.array([float(w) for w in exact_weights(rule, rows @ rows.T)])
        np.testing.assert_allclose(found, expected, rtol=1e-7)
        between += bool(np.all(found > 0.5 + 1e-6))
    assert between >= 10


@every_rule
@some_examples
@given(rows=two_gradients())
def test_closed_form_is_the_general_method(rule: Rule, rows: np.ndarray) -> None:
    """With a third gradient that is zero, and left out, the method for three losses solves the same problem."""
    found, general = weights(rule, rows), weights(rule, np.vstack([rows, 0 * rows[:1]]))
    assert general[2] == 0
    units = rows / np.where(rows.any(axis=1), np.linalg.norm(rows, axis=1), 1)[:, None]
    if found.any() != general[:2].any():
        # which of two rounding errors is the larger
        assert abs(units[0] @ units[1]) > 1 - 1e-11 or not isinstance(rule, MGDA | UPGrad | NashMTL | FairGrad)
        return
    # directions, because those of equal gradients have many weights
    difference = (found - general[:2]) @ rows
    opening = max(1 + units[0] @ units[1], 1e-16)
    tolerance = 1e-12 / opening + 1e-7 * isinstance(rule, CAGrad)
    # where on the way from one gradient to the other the shortest is, is right to eps over their distance squared
    tolerance += 16 * EPS / max(np.linalg.norm(units[0] - units[1]), 1e-8) * isinstance(rule, MGDA)
    assert np.linalg.norm(difference) <= tolerance * max(size(found, rows), size(general[:2], rows))


@every_rule
@given(st.integers(-100, 100), st.sampled_from([1.0, 2.0**-40, 2.0**40]), st.booleans())
def test_parallel_opposed_and_lonely_gradients(rule: Rule, power: int, ratio: float, opposed: bool) -> None:
    gradient = 2.0**power * np.array([3.0, -1.0, 2.0])
    rows = np.stack([gradient, (-1 if opposed else 1) * ratio * gradient])
    w = weights(rule, rows)
    assert np.all(np.isfinite(w))
    d = w @ rows
    if not opposed:
        assert d @ gradient > 0
        np.testing.assert_allclose(d / np.linalg.norm(d), gradient / np.linalg.norm(gradient), atol=1e-15)
    elif not isinstance(rule, CAGrad):
        assert not w.any()
    alone = weights(rule, np.stack([0 * gradient, gradient]))
    assert alone[0] == 0
    assert alone[1] > 0
