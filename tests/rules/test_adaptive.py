"""AdaptiveWeights against the paper's Algorithms 1 and 2."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import AdaptiveWeights

from ..strategies import EPS, Pair, angle, pairs
from .adaptive import ACUTE, ALGORITHMS, OBTUSE, RIGHT, SCORES, ask


@ALGORITHMS
@pytest.mark.parametrize(("s_r", "s_f"), [(math.nan, 0.5), (0.1, math.nan), (0.9, math.nan)])
def test_a_score_that_is_nan(s_r: float, s_f: float, normalized: bool, algorithm: object) -> None:
    assert np.isnan(ask(AdaptiveWeights(normalized=normalized), OBTUSE, s_r, s_f)).all()


@ALGORITHMS
@settings(deadline=None, max_examples=200)
@given(
    pair=pairs(),
    s_r=st.floats(0, 1),
    s_f=st.floats(0, 1),
    alphas=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    delta=st.floats(0, 1),
    epsilon=st.floats(0, 1),
)
def test_is_the_paper_s_algorithm(normalized, algorithm, pair: Pair, s_r, s_f, alphas, **others: float) -> None:
    gram = pair.rows @ pair.rows.T
    hyperparameters = others | {"alpha1": alphas[0], "alpha2": alphas[1]}
    rule = AdaptiveWeights(**hyperparameters, normalized=normalized)
    _, w_r, w_f = algorithm(gram[0, 0], gram[0, 1], gram[1, 1], s_r, s_f, **hyperparameters)
    # the cosine is clipped to [-1, 1], where dividing by the norms one after the other may exceed it by an eps or two
    np.testing.assert_allclose(ask(rule, gram, s_r, s_f), [w_r, w_f], rtol=8 * EPS)


@ALGORITHMS
def test_every_case(normalized, algorithm) -> None:
    seen = set()
    for gram, (s_r, s_f) in itertools.product([OBTUSE, RIGHT, ACUTE], SCORES.values()):
        case, w_r, w_f = algorithm(gram[0, 0], gram[0, 1], gram[1, 1], s_r, s_f)
        seen.add(case)
        rule = AdaptiveWeights(normalized=normalized)
        np.testing.assert_allclose(ask(rule, gram, s_r, s_f), [w_r, w_f], rtol=4 * EPS)
    assert seen == {1, 2, 3, 4, 5}


def nearby(x: float) -> tuple[float, float, float]:
    return math.nextafter(x, -math.inf), x, math.nextafter(x, math.inf)


@ALGORITHMS
@pytest.mark.parametrize("gram", [OBTUSE, RIGHT, ACUTE], ids=["obtuse", "right", "acute"])
@pytest.mark.parametrize(("alpha1", "alpha2"), [(0.5, 0.75), (0.5, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("s_f", [0.0, 0.3, 0.55, 0.7, 0.8, 0.85, 1.0])
def test_scores_on_the_thresholds(normalized, algorithm, gram, alpha1, alpha2, s_f) -> None:
    """Strict is strict: exactly on, one float below and one float above alpha1, alpha2 and s_f - delta."""
    rule = AdaptiveWeights(alpha1=alpha1, alpha2=alpha2, normalized=normalized)
    for s_r in {*nearby(alpha1), *nearby(alpha2), *nearby(s_f - rule.delta)}:
        _, w_r, w_f = algorithm(gram[0, 0], gram[0, 1], gram[1, 1], s_r, s_f, alpha1, alpha2)
        np.testing.assert_allclose(ask(rule, gram, s_r, s_f), [w_r, w_f], rtol=4 * EPS)


def test_thresholds_by_hand() -> None:
    """The same by numbers: on each threshold neither loss is favoured."""
    rule, neither = AdaptiveWeights(epsilon=0.0), [0.5, 0.2]
    below, above = math.nextafter(0.5, 0), math.nextafter(0.75, 1)
    np.testing.assert_allclose(ask(rule, ACUTE, 0.5, 0.0), neither)
    np.testing.assert_allclose(ask(rule, ACUTE, below, 0.0), [0.5, 0])
    np.testing.assert_allclose(ask(rule, ACUTE, 0.75, 0.0), neither)
    np.testing.assert_allclose(ask(rule, ACUTE, above, 0.0), [0, 0.2])
    on = 0.9 - rule.delta
    assert on > rule.alpha2
    np.testing.assert_allclose(ask(rule, ACUTE, on, 0.9), neither)
    np.testing.assert_allclose(ask(rule, ACUTE, math.nextafter(on, 0), 0.9), [0.5, 0])
    np.testing.assert_allclose(ask(rule, ACUTE, math.nextafter(on, 1), 0.9), [0, 0.2])


def test_right_angle_is_not_obtuse() -> None:
    """At an inner product of exactly 0, and of the tiniest negative number, where the projection is nil anyway."""
    np.testing.assert_array_equal(ask(AdaptiveWeights(epsilon=0.0), RIGHT, 0.4, 0.4), [0.5, 0])
    hardly = np.array([[4.0, -5e-324], [-5e-324, 25.0]])
    np.testing.assert_array_equal(ask(AdaptiveWeights(epsilon=0.0), hardly, 0.4, 0.4), [0.5, 0])


@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
@settings(deadline=None, max_examples=100)
@given(pair=pairs())
def test_directions_of_the_theorems(scores, pair: Pair) -> None:
    """Without epsilon: 90 degrees to the other one if obtuse, the favoured gradient if not, else the bisector."""
    rows = pair.rows
    d = ask(AdaptiveWeights(epsilon=0.0), rows @ rows.T, *scores) @ rows
    if scores == SCORES[5]:
        tolerance = 16 * EPS / math.cos(pair.angle / 2)
        assert angle(d, rows[0]) == pytest.approx(pair.angle / 2, abs=tolerance)
        return
    favoured, other = (0, 1) if scores == SCORES[1] else (1, 0)
    tolerance = 16 * EPS / pair.sine
    expected = pair.angle if rows[0] @ rows[1] >= 0 else np.pi / 2
    assert angle(d, rows[other]) == pytest.approx(expected, abs=tolerance)
    assert angle(d, rows[favoured]) <= np.pi / 2 + tolerance


@ALGORITHMS
@pytest.mark.parametrize("mode", ["absolute", "relative"])
@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
def test_what_epsilon_adds(normalized, algorithm, mode, scores) -> None:
    without = ask(AdaptiveWeights(epsilon=0.0, normalized=normalized), OBTUSE, *scores)
    added = ask(AdaptiveWeights(epsilon=0.1, normalized=normalized, epsilon_mode=mode), OBTUSE, *scores) - without
    lengths = np.array([2.0, 5.0]) if mode == "relative" and normalized else np.ones(2)
    np.testing.assert_allclose(added, 0.1 / lengths, rtol=1e-14)


@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
@settings(deadline=None, max_examples=100)
@given(pair=pairs(), epsilon=st.floats(0, 1))
def test_relative_epsilon_is_never_obtuse(scores, pair: Pair, epsilon: float) -> None:
    """To either gradient, at any norms: <d, u_r> and <d, u_f> are sums of terms that cannot be negative.

    In case 1, say, d = (1 + e) u_r + (e - cos) u_f, so <d, u_r> = sin^2 + e (1 + cos) and <d, u_f> = e (1 + cos).
    """
    rule = AdaptiveWeights(epsilon=epsilon, epsilon_mode="relative")
    d = ask(rule, pair.rows @ pair.rows.T, *scores) @ pair.rows
    for row in pair.rows:
        assert row @ d >= -32 * EPS * np.linalg.norm(row)


def share_of_obtuse_steps(rule: AdaptiveWeights | None, scale: float, count: int = 2000) -> float:
    """How often the direction of case 1 is obtuse to the real gradient, over random conflicting pairs.

    Both norms are around ``scale``, log-normal with a spread of a factor of two; the angle is even over 140 to 180
    degrees, which is where a discriminator's two gradients are for most of a training. None: the plain sum.
    """
    rng = np.random.default_rng(20)
    norms = scale * 2 ** rng.standard_normal((count, 2))
    inner = np.cos(np.deg2rad(rng.uniform(140, 180, count))) * norms[:, 0] * norms[:, 1]
    obtuse = 0
    for (r, f), rf in zip(norms, inner, strict=True):
        gram = np.array([[r * r, rf], [rf, f * f]])
        w = np.ones(2) if rule is None else ask(rule, gram, *SCORES[1])
        obtuse += int(gram[0] @ w < -1e-9 * r)
    return obtuse / count


def test_absolute_epsilon_brings_the_conflict_back_at_norms_around_twenty() -> None:
    """What the docstring says: 46% of 2000 draws are obtuse plainly; 6%, 39% and 45% at norms of 0.2, 20 and 200."""
    plain = share_of_obtuse_steps(None, 20.0)
    absolute, relative = AdaptiveWeights(), AdaptiveWeights(epsilon_mode="relative")
    assert 0.35 < plain < 0.55
    assert share_of_obtuse_steps(absolute, 20.0) > 0.8 * plain
    assert share_of_obtuse_steps(absolute, 200.0) > 0.95 * plain
    assert share_of_obtuse_steps(absolute, 0.2) < 0.2 * plain
    for scale in (0.2, 20.0, 200.0):
        assert share_of_obtuse_steps(relative, scale) == 0


@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
@pytest.mark.parametrize("mode", ["absolute", "relative"])
@ALGORITHMS
def test_a_zero_gradient_gets_no_weight_and_case_five_the_other(normalized, algorithm, mode, scores) -> None:
    rule = AdaptiveWeights(normalized=normalized, epsilon_mode=mode)
    length = 0.5 if normalized else 1.0
    expected = length + 0.05 * (length if mode == "relative" else 1)
    np.testing.assert_allclose(ask(rule, np.diag([4.0, 0.0]), *scores), [expected, 0], rtol=4 * EPS)
    np.testing.assert_allclose(ask(rule, np.diag([0.0, 4.0]), *scores), [0, expected], rtol=4 * EPS)
    np.testing.assert_array_equal(ask(rule, np.zeros((2, 2)), *scores), 0)


@ALGORITHMS
@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
@settings(deadline=None, max_examples=20)
@given(square=st.floats(1e-6, 1e6), real=st.booleans())
def test_a_zero_gradient_as_printed(normalized, algorithm, scores, square, real) -> None:
    """Lines 5 to 19 with an angle that is not obtuse: the loss that has a gradient gets exactly what they say."""
    gram = np.diag([square, 0.0] if real else [0.0, square])
    # 1/|g| of the zero gradient, which the printed algorithm would multiply by it, is not looked at
    printed = algorithm(gram[0, 0] or math.inf, 0.0, gram[1, 1] or math.inf, *scores)[1:]
    found = ask(AdaptiveWeights(normalized=normalized, zero="printed"), gram, *scores)
    kept = 0 if real else 1
    np.testing.assert_allclose(found[kept], printed[kept], rtol=4 * EPS)
    assert found[1 - kept] == 0
    np.testing.assert_array_equal(ask(AdaptiveWeights(zero="printed"), np.zeros((2, 2)), *scores), 0)


@ALGORITHMS
@settings(deadline=None, max_examples=50)
@given(pair=pairs(), scores=st.sampled_from(list(SCORES.values())), mode=st.sampled_from(["absolute", "relative"]))
def test_with_two_gradients_nothing_hangs_on_zero(normalized, algorithm, pair: Pair, scores, mode) -> None:
    gram = pair.rows @ pair.rows.T
    default, printed = (
        ask(AdaptiveWeights(normalized=normalized, epsilon_mode=mode, zero=zero), gram, *scores)
        for zero in ("train_other", "printed")
    )
    np.testing.assert_array_equal(default, printed)


def test_what_the_default_gives_instead_of_epsilon() -> None:
    """A real gradient that is zero with the real loss favoured, a fake one of length 5: 5 and 21 times epsilon."""
    gram, case_1 = np.diag([0.0, 25.0]), SCORES[1]
    for normalized, times in ((True, 5), (False, 21)):
        ours, printed = (
            ask(AdaptiveWeights(normalized=normalized, zero=zero), gram, *case_1)[1]
            for zero in ("train_other", "printed")
        )
        assert printed == 0.05
        assert ours == pytest.approx(times * printed)


@pytest.mark.parametrize("scores", SCORES.values(), ids=["real", "fake", "neither"])
def test_exactly_opposed_gradients_leave_the_part_of_epsilon(scores) -> None:
    rows = np.array([[3.0, 4.0], [-30.0, -40.0]])
    absolute = ask(AdaptiveWeights(), rows @ rows.T, *scores) @ rows
    np.testing.assert_allclose(absolute, 0.05 * rows.sum(0), rtol=16 * EPS)
    relative = ask(AdaptiveWeights(epsilon_mode="relative"), rows @ rows.T, *scores) @ rows
    np.testing.assert_allclose(relative, 0, atol=16 * EPS)
