"""OrthogonalProjection: Theorems 2.2, 2.3 and 3, several protected losses, and ``when="conflict"``."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import OrthogonalProjection

from ..strategies import EPS, Pair, angle, direction, pairs, regular_sets, size, structured_sets, weights

NAMES = tuple("abcdefgh")

BOTH_WAYS = pytest.mark.parametrize(("favour", "protect"), [(0, 1), (1, 0)], ids=["2.2", "2.3"])
NORMALIZED = pytest.mark.parametrize("normalized", [True, False], ids=["theorem 2", "theorem 3"])


@BOTH_WAYS
@NORMALIZED
@settings(deadline=None, max_examples=100)
@given(pair=pairs())
def test_two_losses_ninety_degrees_to_the_protected(favour: int, protect: int, normalized: bool, pair: Pair) -> None:
    """And |90 - angle| degrees to the favoured one, which is at most 90."""
    rule = OrthogonalProjection(NAMES[favour], normalized=normalized)
    d = direction(rule, pair.rows, NAMES[:2])
    # |d| is sin(angle) of the favoured length, made of two terms of that length with errors of a few eps each, so
    # its direction is off by eps / sin(angle): 1e-8 radian where the gradients are 1e-6 degrees from a line
    tolerance = 16 * EPS / pair.sine
    assert angle(d, pair.rows[protect]) == pytest.approx(np.pi / 2, abs=tolerance)
    assert angle(d, pair.rows[favour]) == pytest.approx(abs(np.pi / 2 - pair.angle), abs=tolerance)
    assert angle(d, pair.rows[favour]) <= np.pi / 2 + tolerance


@NORMALIZED
@settings(deadline=None)
@given(pair=pairs())
def test_two_losses_weights_of_the_theorems(normalized: bool, pair: Pair) -> None:
    r, f = pair.rows
    w_r, w_f = weights(OrthogonalProjection("a", normalized=normalized), pair.rows, NAMES[:2])
    length = np.linalg.norm(r) if normalized else 1.0
    assert w_r == pytest.approx(1 / length, rel=4 * EPS)
    # the inner product is right to eps of the norms' product, not of itself
    assert w_f == pytest.approx(-(r @ f) / (f @ f) / length, abs=16 * EPS * w_r * np.linalg.norm(r) / np.linalg.norm(f))


@NORMALIZED
@settings(deadline=None)
@given(pair=pairs())
def test_conflict_leaves_an_acute_pair_alone(normalized: bool, pair: Pair) -> None:
    rule = OrthogonalProjection("a", normalized=normalized, when="conflict")
    w = weights(rule, pair.rows, NAMES[:2])
    always = weights(OrthogonalProjection("a", normalized=normalized), pair.rows, NAMES[:2])
    if pair.rows[0] @ pair.rows[1] >= 0:
        np.testing.assert_array_equal(w, [always[0], 0])
    else:
        np.testing.assert_allclose(w, always, rtol=4 * EPS)


@settings(deadline=None, max_examples=200)
@given(rows=regular_sets(min_m=2, max_ratio=1e12), favoured=st.integers(1, 3), normalized=st.booleans())
def test_orthogonal_to_the_span_of_several_protected(rows: np.ndarray, favoured: int, normalized: bool) -> None:
    favoured = min(favoured, len(rows) - 1)
    names = NAMES[: len(rows)]
    w = weights(OrthogonalProjection(names[:favoured], normalized=normalized), rows, names)
    d = w @ rows
    rounding = 16 * len(rows) * EPS * size(w, rows)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(rows[favoured:] @ d / norms[favoured:], 0, rtol=0, atol=rounding)
    followed = sum(row / np.linalg.norm(row) if normalized else row for row in rows[:favoured])
    assert d @ followed >= -rounding * np.linalg.norm(followed)
    # d is what is left of `followed`, so they make the angle whose cosine is |d| / |followed|
    assert d @ followed == pytest.approx(d @ d, abs=4 * rounding * np.linalg.norm(followed))


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


@settings(deadline=None, max_examples=200)
@given(rows=structured_sets(min_m=2), normalized=st.booleans())
def test_dependent_protected_gradients(rows: np.ndarray, normalized: bool) -> None:
    """Against least squares on the gradients themselves; the favoured one may lie in the span, too."""
    names = NAMES[: len(rows)]
    d = direction(OrthogonalProjection("a", normalized=normalized), rows, names)
    followed, span = (_unit(rows) if normalized else rows)[0], _unit(rows)[1:].T
    if np.any(followed != 0):
        expected = followed - span @ np.linalg.lstsq(span, followed, rcond=1e-10)[0]
    else:
        expected = (_unit(rows) if normalized else rows)[1:].sum(0)
    # small integers: singular values of the span are 0 or at least 1e-3, and enter squared
    np.testing.assert_allclose(d, expected, rtol=0, atol=1e-8)


@settings(deadline=None, max_examples=100)
@given(rows=st.one_of(structured_sets(min_m=2, max_m=6), regular_sets(min_m=2, max_m=6)), normalized=st.booleans())
def test_conflict_is_the_nearest_that_conflicts_with_none(rows: np.ndarray, normalized: bool) -> None:
    names = NAMES[: len(rows)]
    rule = OrthogonalProjection("a", normalized=normalized, when="conflict")
    d = direction(rule, rows, names)
    units = _unit(rows)
    followed = units[0] if normalized else rows[0]
    if np.all(followed == 0):
        np.testing.assert_allclose(d, (units if normalized else rows)[1:].sum(0), rtol=1e-12, atol=1e-12)
        return
    length = np.linalg.norm(followed)
    assert np.all(units[1:] @ d >= -1e-9 * length)
    # a combination of the followed gradient and nonnegative multiples of the protected ones that is feasible and
    # orthogonal to what was added is the projection on the cone: unique, and hence the nearest
    w = weights(rule, rows, names) * np.where(np.any(rows != 0, axis=1), np.linalg.norm(rows, axis=1), 0)
    assert np.all(w[1:] >= 0)
    # all 0 where nothing but rounding is left of the followed gradient
    assert w[0] == pytest.approx(length, rel=4 * EPS) or not w.any()
    assert d @ (d - followed) == pytest.approx(0, abs=1e-9 * length**2)
    # and by trying: the nearest of the feasible projections on the spans of subsets
    best = min(
        (p for p in _projections(followed, units[1:]) if np.all(units[1:] @ p > -1e-9 * length)),
        key=lambda p: np.linalg.norm(p - followed),
    )
    np.testing.assert_allclose(d, best, rtol=0, atol=1e-8 * length)


def _projections(vector: np.ndarray, units: np.ndarray):
    for count in range(len(units) + 1):
        for chosen in combinations(range(len(units)), count):
            span = units[list(chosen)].T
            yield vector - span @ np.linalg.lstsq(span, vector, rcond=1e-10)[0] if chosen else vector


@settings(deadline=None)
@given(rows=regular_sets(min_m=3, max_m=5))
def test_a_loss_in_neither_list_has_weight_zero(rows: np.ndarray) -> None:
    names = NAMES[: len(rows)]
    w = weights(OrthogonalProjection("b", protect="a"), rows, names)
    np.testing.assert_array_equal(w[2:], 0)
    np.testing.assert_allclose(w[:2], weights(OrthogonalProjection("b"), rows[:2], NAMES[:2]), rtol=1e-12)


@pytest.mark.parametrize("when", ["always", "conflict"])
@NORMALIZED
def test_exactly_opposed_gradients_leave_nothing(when: str, normalized: bool) -> None:
    rows = np.array([[3.0, 4.0], [-30.0, -40.0]])
    rule = OrthogonalProjection("a", normalized=normalized, when=when)
    np.testing.assert_allclose(direction(rule, rows, NAMES[:2]), 0, rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("when", ["always", "conflict"])
def test_zero_favoured_gradient_follows_the_others(when: str) -> None:
    rows = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    np.testing.assert_array_equal(weights(OrthogonalProjection("a", when=when), rows, NAMES[:3]), [0, 0.5, 0.25])
    unnormalized = OrthogonalProjection("a", when=when, normalized=False)
    np.testing.assert_array_equal(weights(unnormalized, rows, NAMES[:3]), [0, 1, 1])


def test_one_of_two_favoured_gradients_zero() -> None:
    rows = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    w = weights(OrthogonalProjection(("a", "b")), rows, NAMES[:3])
    assert w[0] == 0
    np.testing.assert_allclose(w[1:], weights(OrthogonalProjection("b"), rows[1:], ("b", "c")), rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"favour": ()}, "OrthogonalProjection needs at least one loss to favour; got none"),
        ({"favour": ("a", "b"), "protect": "b"}, r"OrthogonalProjection cannot both favour and protect \['b'\]"),
        ({"favour": ("a", "a")}, r"OrthogonalProjection needs each loss named once; got \['a', 'a'\]"),
        ({"favour": "a", "protect": ("b", "b")}, r"OrthogonalProjection needs each loss named once; got \['b', 'b'\]"),
        ({"favour": "a", "when": "never"}, "OrthogonalProjection needs when='always' or 'conflict'; got 'never'"),
    ],
)
def test_errors_of_construction(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrthogonalProjection(**arguments)


@pytest.mark.parametrize(
    ("rule", "names", "message"),
    [
        (OrthogonalProjection("z"), NAMES[:2], r"OrthogonalProjection needs the loss 'z'; this step has \['a', 'b'\]"),
        (OrthogonalProjection("a", protect="z"), NAMES[:2], "OrthogonalProjection needs the loss 'z'"),
        (OrthogonalProjection("a"), None, "finds its losses by name: it needs names=, and was called without"),
    ],
)
def test_errors_of_the_call(rule: OrthogonalProjection, names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights(rule, np.eye(2), names)


@pytest.mark.parametrize("normalized", [True, False])
def test_more_than_eight_protected_in_conflict_mode(normalized: bool) -> None:
    """Optimal if feasible and complementary: d follows t, less nothing but the gradients that it is orthogonal to."""
    rows = np.random.default_rng(3).standard_normal((13, 40)) * np.logspace(-3, 3, 13)[:, None]
    names = tuple("abcdefghijklm")
    w = weights(OrthogonalProjection("a", when="conflict", normalized=normalized), rows, names)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    d = w @ rows
    size = np.linalg.norm(rows[0]) if not normalized else 1.0
    slack = units[1:] @ d / size
    assert np.all(w[1:] >= 0)
    assert np.all(slack >= -1e-9)
    np.testing.assert_allclose(w[1:] * np.linalg.norm(rows[1:], axis=1) / size * slack, 0, atol=1e-9)
    assert w[0] == pytest.approx(1 / np.linalg.norm(rows[0]) if normalized else 1.0)
