"""What all the rules of the papers share beyond their claims: one list, in every setting; a rule more is a line more.

`test_claims` runs on one setting of each rule with fixed names. Here the names travel with the rows, and agreement
between libraries is held to 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rule import Array, Rule
from gradweight.rules import AdaptiveWeights, AdvAs, AngleBisector, Constant, Mean, OrthogonalProjection, Sum

from ..strategies import regular_sets, size, structured_sets, weights, weights_of_gram

NAMES = ("real", "fake", "advas", "data", "pde", "edge", "start", "end")

FAVOUR_REAL = {"real_score": 0.4, "fake_score": 0.4}
FAVOUR_FAKE = {"real_score": 0.9, "fake_score": 0.2}
FAVOUR_NEITHER = {"real_score": 0.6, "fake_score": 0.4}


@dataclass(frozen=True)
class Case:
    """A rule in one setting.

    Args:
        rule: looks for its losses among `NAMES`.
        degree: the direction scales as this power of the network's loss; None: not at all simply.
        scaling: up to how many losses it does so.
        per_loss: the direction, length included, does not change when one loss is scaled.
        needs: names of the losses without which the rule cannot be called.
        signals: their values.
    """

    rule: Rule
    degree: int | None = 1
    scaling: int = 8
    per_loss: bool = False
    needs: tuple[str, ...] = ()
    signals: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = [f"{f.name}={getattr(self.rule, f.name)!r}" for f in fields(self.rule) if f.name != "weights"]
        return f"{type(self.rule).__name__}({', '.join(changed)})" + ("-" + str([*self.signals.values()])) * bool(
            self.signals
        )

    def given(self, like: Array) -> dict[str, Any]:
        """Its signals as 0-dim arrays of the library, dtype and device of ``like``."""
        return {name: 0 * like[0, 0] + value for name, value in self.signals.items()}

    def weights(self, rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
        return weights(self.rule, rows, names, **self.given(np.zeros((1, 1))))


CASES = [
    Case(Sum()),
    Case(Mean()),
    Case(Constant({name: 1 + i / 8 for i, name in enumerate(NAMES)})),
    Case(AngleBisector(), degree=0, per_loss=True),
    Case(OrthogonalProjection("real"), degree=0, per_loss=True, needs=("real",)),
    Case(OrthogonalProjection("real", normalized=False), needs=("real",)),
    Case(OrthogonalProjection("real", when="conflict"), degree=0, per_loss=True, needs=("real",)),
    Case(OrthogonalProjection("real", when="conflict", normalized=False), needs=("real",)),
    Case(OrthogonalProjection(("real", "fake")), degree=0, per_loss=True, needs=("real", "fake")),
    Case(AdvAs("real"), needs=("real",)),
    *(
        case
        for signals in (FAVOUR_REAL, FAVOUR_FAKE, FAVOUR_NEITHER)
        for case in (
            Case(AdaptiveWeights(), degree=None, needs=("real", "fake"), signals=signals),
            Case(AdaptiveWeights(normalized=False), needs=("real", "fake"), signals=signals),
            Case(
                AdaptiveWeights(epsilon_mode="relative"), degree=0, scaling=2, needs=("real", "fake"), signals=signals
            ),
        )
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
few_examples = settings(deadline=None, max_examples=15)


@every_case
@few_examples
@given(data=st.data())
def test_order_of_the_losses_does_not_matter(case: Case, data: st.DataObject) -> None:
    """Names permuted together with the rows."""
    rows = data.draw(structured_sets(min_m=max(2, len(case.needs))))
    order = data.draw(st.permutations(range(len(rows))))
    before = case.weights(rows, NAMES[: len(rows)])
    after = case.weights(rows[order], tuple(NAMES[i] for i in order))
    # not the weights: of dependent gradients, which one carries the weight is up to the order. 1e-9: the singular
    # values of small integer matrices are 0 or above 1e-3, and the Gram matrix squares them
    rounding = 1e-9 * (1 + size(before, rows))
    np.testing.assert_allclose(after @ rows[order], before @ rows, rtol=0, atol=rounding)


@every_case
@few_examples
@given(data=st.data())
def test_zero_gradients_are_left_out(case: Case, data: st.DataObject) -> None:
    """The direction is that of the rule on the other losses, for whichever losses it can do without."""
    rows = data.draw(structured_sets(min_m=2)).copy()
    names = NAMES[: len(rows)]
    optional = [i for i in range(len(rows)) if names[i] not in case.needs]
    zeroed = data.draw(st.sets(st.sampled_from(optional), min_size=1)) if optional else set()
    rows[list(zeroed)] = 0
    w = case.weights(rows, names)
    assert np.all(np.isfinite(w))
    np.testing.assert_array_equal(w[np.all(rows == 0, axis=1)], 0)
    kept = [i for i in range(len(rows)) if i not in zeroed]
    if kept:
        expected = case.weights(rows[kept], tuple(names[i] for i in kept)) @ rows[kept]
        np.testing.assert_allclose(w @ rows, expected, rtol=0, atol=1e-9 * (1 + size(w, rows)))


@every_case
@pytest.mark.parametrize("m", [2, 3, 8])
def test_no_gradient_at_all_is_no_step(case: Case, m: int) -> None:
    np.testing.assert_array_equal(case.weights(np.zeros((m, 4)), NAMES[:m]), 0)


@every_case
@pytest.mark.parametrize("m", [2, 3, 8])
def test_one_gradient_left_is_followed(case: Case, m: int) -> None:
    """Whichever it is: zero gradients of the others must not freeze training."""
    for i in range(m):
        rows = np.zeros((m, 4))
        rows[i] = [1.0, 2.0, 0.0, 2.0]
        w = case.weights(rows, NAMES[:m])
        assert w[i] > 0
        np.testing.assert_array_equal(np.delete(w, i), 0)


@every_case
@pytest.mark.parametrize("ratio", [1.0, 0.5, 1e-12, 1e12])
@pytest.mark.parametrize("further", [0, 2])
def test_exactly_opposed_gradients_are_finite(case: Case, ratio: float, further: int) -> None:
    first = np.array([1.0, 2.0, 0.0, 2.0])
    rows = np.stack([first, -ratio * first, *np.eye(4)[:further]])
    names = NAMES[: len(rows)]
    w = case.weights(rows, names)
    assert np.all(np.isfinite(w))
    # no weight so large that the direction is rounding: opposed gradients never need more than their own lengths
    lengths = np.linalg.norm(rows, axis=1)
    assert np.all(np.abs(w) * lengths <= 3 * (1 + lengths.max()))


@pytest.mark.parametrize("case", [c for c in CASES if c.degree is not None], ids=str)
@few_examples
@given(data=st.data(), power=st.integers(-100, 100))
def test_scale_of_the_network_s_loss(case: Case, data: st.DataObject, power: int) -> None:
    """All losses times c: a normalized rule takes the same step, the others one c times as long."""
    rows, factor = data.draw(structured_sets(min_m=2, max_m=case.scaling)), 2.0**power
    names = NAMES[: len(rows)]
    before, after = case.weights(rows, names), case.weights(factor * rows, names)
    # powers of two leave no rounding but that of square roots and of norms of odd powers
    expected = before * factor ** (case.degree - 1)
    np.testing.assert_allclose(after @ rows, expected @ rows, rtol=0, atol=1e-9 * size(expected, rows))


@pytest.mark.parametrize("signals", [FAVOUR_REAL, FAVOUR_FAKE, FAVOUR_NEITHER])
@few_examples
@given(rows=regular_sets(min_m=2, max_m=2), power=st.floats(-3, 3))
def test_absolute_epsilon_is_all_that_is_not_scale_free(signals: dict, rows: np.ndarray, power: float) -> None:
    case, factor = Case(AdaptiveWeights(), signals=signals), 10.0**power
    difference = case.weights(rows, NAMES[:2]) - factor * case.weights(factor * rows, NAMES[:2])
    rounding = 1e-14 * (1 + factor + 1 / np.linalg.norm(rows, axis=1).min())
    np.testing.assert_allclose(difference, 0.05 * (1 - factor), rtol=0, atol=rounding)


@pytest.mark.parametrize("case", [c for c in CASES if c.per_loss], ids=str)
@few_examples
@given(rows=regular_sets(min_m=2, max_ratio=1e4), powers=st.lists(st.floats(-6, 6), min_size=8, max_size=8))
def test_scale_of_each_loss(case: Case, rows: np.ndarray, powers: list[float]) -> None:
    names = NAMES[: len(rows)]
    scaled = rows * 10.0 ** np.array(powers[: len(rows)])[:, None]
    before, after = case.weights(rows, names), case.weights(scaled, names)
    # cosines differ by rounding, which the condition number of random rows (some 1e3) enlarges
    np.testing.assert_allclose(after @ scaled, before @ rows, rtol=0, atol=1e-11 * size(before, rows))


@every_case
@few_examples
@given(data=st.data())
def test_numpy_and_torch_agree_to_1e_12(case: Case, data: st.DataObject) -> None:
    """On one and the same Gram matrix; two would differ by how they were summed up."""
    rows = data.draw(structured_sets(min_m=2))
    gram, names = rows @ rows.T, NAMES[: len(rows)]
    by_numpy = weights_of_gram(case.rule, gram, names, **case.given(gram))
    by_torch = weights_of_gram(case.rule, torch.from_numpy(gram), names, **case.given(torch.from_numpy(gram)))
    assert isinstance(by_torch, torch.Tensor)
    assert by_torch.dtype == torch.float64
    np.testing.assert_allclose(
        by_torch.numpy() @ rows, by_numpy @ rows, rtol=0, atol=1e-12 * (1 + size(by_numpy, rows))
    )


@every_case
def test_vmap_over_a_batch_is_a_loop(case: Case) -> None:
    """Scores and Gram matrices of their own for each member; one member has a zero gradient, one opposed ones."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 3, 5)))
    rows[1, 1] = 0
    rows[2, 1] = -2 * rows[2, 0]
    grams = rows @ rows.mT
    signals = {name: torch.linspace(0.3, 0.95, 6, dtype=torch.float64).roll(i) for i, name in enumerate(case.signals)}

    def decide(gram: torch.Tensor, signals: dict[str, torch.Tensor]) -> torch.Tensor:
        return weights_of_gram(case.rule, gram, NAMES[:3], **signals)

    batched = torch.vmap(decide)(grams, signals)
    looped = [decide(gram, {name: value[i] for name, value in signals.items()}) for i, gram in enumerate(grams)]
    # batched matrix products add in another order
    torch.testing.assert_close(batched, torch.stack(looped), rtol=1e-12, atol=1e-12)


@every_case
def test_float32_and_no_side_effects(case: Case) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32))
    gram = rows @ rows.mT
    before = gram.clone()
    assert weights_of_gram(case.rule, gram, NAMES[:3], **case.given(gram)).dtype == torch.float32
    assert torch.equal(gram, before)
