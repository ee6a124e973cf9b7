"""AdaptiveWeights: which two losses, what further ones get, and the errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rules import AdaptiveWeights

from ..strategies import regular_sets, weights
from .adaptive import ACUTE, SCORES, ask


@settings(deadline=None)
@given(regular_sets(min_m=3, max_m=6), st.sampled_from(list(SCORES.values())), st.booleans(), st.randoms())
def test_further_losses_have_weight_one(rows: np.ndarray, scores, normalized: bool, random) -> None:
    names = ["real", "fake", *"cdef"][: len(rows)]
    signals = {"real_score": np.asarray(scores[0]), "fake_score": np.asarray(scores[1])}
    rule = AdaptiveWeights(normalized=normalized)
    two = ask(rule, (rows @ rows.T)[:2, :2], *scores)
    expected = dict(zip(names, [*two, *[1.0] * (len(rows) - 2)], strict=True))
    order = random.sample(range(len(rows)), len(rows))
    shuffled = tuple(names[i] for i in order)
    found = weights(rule, rows[order], shuffled, **signals)
    np.testing.assert_allclose(found, [expected[name] for name in shuffled], rtol=1e-12)


def test_a_further_loss_with_zero_gradient_has_weight_zero() -> None:
    gram = np.diag([4.0, 25.0, 0.0, 9.0])
    np.testing.assert_allclose(ask(AdaptiveWeights(epsilon=0.0), gram, *SCORES[5]), [0.5, 0.2, 0, 1])


def test_names_of_the_two_losses() -> None:
    rule = AdaptiveWeights(real="data", fake="generated", epsilon=0.0)
    signals = {"real_score": np.asarray(0.4), "fake_score": np.asarray(0.4)}
    found = rule(ACUTE, names=("generated", "data"), **signals)
    np.testing.assert_allclose(found, [0, 0.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha1": -0.1}, r"AdaptiveWeights needs alpha1 in \[0, 1\]; got -0.1"),
        ({"alpha2": 1.5}, r"AdaptiveWeights needs alpha2 in \[0, 1\]; got 1.5"),
        ({"alpha1": math.nan}, r"AdaptiveWeights needs alpha1 in \[0, 1\]; got nan"),
        ({"delta": -1.0}, "AdaptiveWeights needs delta >= 0 and finite; got -1.0"),
        ({"epsilon": -0.05}, "AdaptiveWeights needs epsilon >= 0 and finite; got -0.05"),
        ({"epsilon": math.inf}, "AdaptiveWeights needs epsilon >= 0 and finite; got inf"),
        ({"delta": math.nan}, "AdaptiveWeights needs delta >= 0 and finite; got nan"),
        ({"epsilon_mode": "both"}, "AdaptiveWeights needs epsilon_mode 'absolute' or 'relative'; got 'both'"),
        ({"zero": "nan"}, "AdaptiveWeights needs zero 'train_other' or 'printed'; got 'nan'"),
        ({"real": "x", "fake": "x"}, "AdaptiveWeights needs two losses; real and fake are both named 'x'"),
    ],
)
def test_errors_of_construction(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveWeights(**arguments)


def test_errors_of_the_call() -> None:
    signals = {"real_score": np.asarray(0.4), "fake_score": np.asarray(0.4)}
    with pytest.raises(ValueError, match=r"AdaptiveWeights needs the loss 'fake'; this step has \['real', 'extra'\]"):
        AdaptiveWeights()(ACUTE, names=("real", "extra"), **signals)
    with pytest.raises(ValueError, match=r"AdaptiveWeights needs the loss 'real'; this step has \['fake', 'extra'\]"):
        AdaptiveWeights()(ACUTE, names=("fake", "extra"), **signals)
    with pytest.raises(ValueError, match="AdaptiveWeights needs the losses 'real' and 'fake'; got 1 loss"):
        AdaptiveWeights()(np.eye(1), **signals)
