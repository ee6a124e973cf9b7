"""Gradients that cancel: where nothing is left but rounding errors a rule returns 0, and no direction made of them."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient, rules
from gradweight.rule import Rule, StatefulRule

from ..strategies import SEEDS

DTYPES = st.sampled_from([np.float32, np.float64])


def weights(rule: Rule, rows: np.ndarray, on_host: bool = True) -> np.ndarray:
    """Of the Gram matrix in the precision of the rows, each entry rounded once."""
    double = rows.astype(np.float64)
    gram = (double @ double.T).astype(rows.dtype)
    gram = gram if on_host else torch.tensor(gram)
    given = {"step": np.int64(0)} if isinstance(rule, rules.PCGrad | rules.GradVac) else {}
    if isinstance(rule, StatefulRule):
        return np.asarray(rule.update(gram, rule.init(gram), **given)[0])
    return np.asarray(rule(gram, **given))


def turned(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same gradients in a random subspace of 12 dimensions."""
    basis, _ = np.linalg.qr(rng.standard_normal((12, rows.shape[1])))
    found: np.ndarray = rows @ basis.T
    return found


def fan(rng: np.random.Generator) -> np.ndarray:
    """Unit vectors of a plane at 120 degrees."""
    angles = rng.uniform(0, 7) + np.array([0, 2, 4]) * np.pi / 3
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def tetrahedron(rng: np.random.Generator) -> np.ndarray:
    """Four unit vectors from the middle of a tetrahedron to its corners."""
    return np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


def in_a_plane(rng: np.random.Generator) -> np.ndarray:
    """Three vectors of a plane, 50 to 140 degrees from one to the next.

    Nearer to each other they need large coefficients to cancel, and those make a direction of the rounding errors of
    their cosines that is at equal angles to them all the same.
    """
    angles = rng.uniform(0, 7) + np.cumsum(rng.uniform(0.9, 2.5, 3))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def with_opposed(rng: np.random.Generator) -> np.ndarray:
    """A vector, its opposite, and one more."""
    first, other = rng.standard_normal((2, 3))
    return np.stack([first, -first, other])


def adding_up_to_nothing(rng: np.random.Generator) -> np.ndarray:
    """Two random vectors and what takes them back."""
    first, second = rng.standard_normal((2, 3))
    return np.stack([first, second, -first - second])


NEVER_CONFLICTING = (rules.MGDA(), rules.NashMTL(), rules.FairGrad(alpha=0.5), rules.UPGrad(), rules.DualProj())
EQUAL_ANGLES = (rules.AngleBisector(), rules.IMTLG(), rules.CRMOGM(rules.AngleBisector()))
BY_LENGTH = (rules.ConFIG(), rules.AlignedMTL(), rules.CAGrad())
"""Rules for which it is the gradients that have to cancel, not their directions."""

CASES = [
    *((rule, gradients) for rule in NEVER_CONFLICTING for gradients in (fan, tetrahedron, adding_up_to_nothing)),
    *((rule, gradients) for rule in EQUAL_ANGLES for gradients in (fan, tetrahedron, in_a_plane, with_opposed)),
    *((rule, gradients) for rule in BY_LENGTH for gradients in (fan, tetrahedron, adding_up_to_nothing)),
]


@pytest.mark.parametrize(("rule", "gradients"), CASES, ids=lambda x: getattr(x, "__name__", repr(x)))
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, dtype=DTYPES, on_host=st.booleans())
def test_nothing_is_left(rule: Rule, gradients: object, seed: int, dtype: type, on_host: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = turned(gradients(rng), rng)  # type: ignore[operator]
    if rule not in BY_LENGTH:
        rows *= 10.0 ** rng.uniform(-3, 3, (len(rows), 1))
    assert np.array_equal(weights(rule, rows.astype(dtype), on_host), np.zeros(len(rows)))


@pytest.mark.parametrize("rule", [rules.PCGrad(), rules.GradVac()], ids=repr)
@settings(deadline=None, max_examples=30)
@given(seed=SEEDS, dtype=DTYPES)
def test_nothing_is_left_where_each_gradient_has_its_opposite(rule: Rule, seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.choice([-1.0, 1.0], (4, 1)) * 10.0 ** rng.uniform(-3, 3, (4, 1)) * rng.standard_normal(12)
    rows[1] *= -np.sign(rows[0] @ rows[1])
    assert np.array_equal(weights(rule, rows.astype(dtype)), np.zeros(4))


@settings(deadline=None, max_examples=300)
@given(seed=SEEDS, dtype=DTYPES, power=st.floats(-9, 0), on_host=st.booleans())
def test_a_bisector_that_is_left_conflicts_with_nothing(seed: int, dtype: type, power: float, on_host: bool) -> None:
    """Gradients of which some nearly agree or oppose each other, mostly dependent."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(3, 8))
    rows = rng.standard_normal((m, int(rng.integers(2, 7))))
    for i in range(1, m):
        if rng.random() < 0.4:
            rows[i] = rows[rng.integers(i)] * rng.choice([-1, 1]) + 10.0**power * rng.standard_normal(rows.shape[1])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (turned(rows, rng) * 10.0 ** rng.uniform(-3, 3, (m, 1))).astype(dtype)
    w = weights(rules.AngleBisector(), rows, on_host).astype(np.longdouble)
    exact = rows.astype(np.longdouble)
    along = exact @ (w @ exact) / np.sqrt(np.sum(exact**2, axis=1))
    # rounding leaves 1/(4 m) of each uncertain, and two gradients that count as one half of it
    assert np.all(w == 0) or np.all(np.abs(along - along.mean()) < 0.6 * along.mean())


@pytest.mark.parametrize("rule", [rules.AngleBisector(), rules.IMTLG(), rules.ConFIG(), rules.AlignedMTL()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_stays_where_it_is(rule: Rule, dtype: torch.dtype) -> None:
    """It makes a step of the learning rate of whatever it is given."""
    generator = torch.Generator().manual_seed(0)
    p = nn.Parameter(torch.randn(50, dtype=dtype, generator=generator))
    first, second = torch.linalg.qr(torch.randn(50, 2, dtype=dtype, generator=generator))[0].T
    before = p.detach().clone()
    opt = MultiObjectiveGradient(torch.optim.Adam([p], lr=0.01), rule)
    for i in range(10):
        opt.zero_grad()
        angles = [i + 2 * k * math.pi / 3 for k in range(3)]
        u = [math.cos(a) * first + math.sin(a) * second for a in angles]
        opt.backward({name: (u[k] * p).sum() for k, name in enumerate("abc")})
        opt.step()
    assert torch.equal(p.detach(), before)


@pytest.mark.parametrize("when", ["always", "conflict"])
@settings(deadline=None, max_examples=200)
@given(seed=SEEDS, on_host=st.booleans())
def test_two_protected_gradients_of_a_plane_leave_nothing(when: str, seed: int, on_host: bool) -> None:
    """Nearly parallel ones too, whose large coefficients cancel; "conflict" where all three surround 0."""
    rows = np.random.default_rng(seed).integers(-7, 8, (3, 2)).astype(float)
    following = np.roll(rows, -1, axis=0)
    crossed = np.roll(rows[:, 0] * following[:, 1] - rows[:, 1] * following[:, 0], -1)  # exact: integers
    if not rows[0].any() or (crossed[0] == 0 if when == "always" else len(set(np.sign(crossed))) > 1 or not crossed[0]):
        return
    gram = rows @ rows.T if on_host else torch.tensor(rows @ rows.T)
    found = np.asarray(rules.OrthogonalProjection("a", when=when)(gram, names=("a", "b", "c")))  # type: ignore[arg-type]
    assert np.array_equal(found, np.zeros(3))


@pytest.mark.parametrize(
    "rule",
    [rules.FairGrad(0.2), rules.FairGrad(0.5), rules.FairGrad(0.7), rules.FairGrad(2.0), rules.NashMTL()],
    ids=repr,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("on_host", [True, False])
def test_no_fair_step_where_a_pair_is_opposed_in_any_order(rule: Rule, dtype: type, on_host: bool) -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=dtype)
    for order in permutations(range(3)):
        assert np.array_equal(weights(rule, rows[list(order)], on_host), np.zeros(3))
