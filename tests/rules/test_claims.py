"""Every claim of `gradweight.rules.claims`, and what every rule must do, run on every rule of the list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight import rules
from gradweight.rule import CoordinateRule, Signals, StatefulRule, array_namespace
from gradweight.rules import CAGrad, SDMGrad
from gradweight.rules.claims import CLAIMS, NAMES, Claims

EPS = np.finfo(float).eps
few_examples = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    # without the phase that explains a failure, which takes longer than finding it
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Problem:
    """Gradients, (m, k), the values of their losses, (m,), and which form of the rule's solvers is to be asked."""

    rows: Any
    losses: Any
    on_host: bool = True

    @property
    def m(self):
        return self.rows.shape[0]

    def scaled(self, factors):
        return replace(self, rows=self.rows * factors[:, None], losses=self.losses * factors)

    def only(self, which):
        return replace(self, rows=self.rows[which], losses=self.losses[which])


@dataclass(frozen=True)
class Outcome:
    """The direction of a rule, (k,), and how large the numbers are that it was summed up from."""

    direction: Any
    weights: Any
    size: float


def decide(claims: Claims, rows, losses, names=None, steps=2, gram=None):
    """Weights (or, of a coordinate rule, the direction) at the last of a few steps of falling losses."""
    rule = claims.rule
    gram = None if isinstance(rule, CoordinateRule) else rows @ rows.T if gram is None else gram
    state, result = None, None
    for step in range(steps if isinstance(rule, StatefulRule) else 1):
        signals = signals_of(claims, rows, losses * 0.9**step, step + 5, names)
        if isinstance(rule, StatefulRule):
            result, state = rule.update(gram, rule.init(gram) if state is None else state, **signals)
        else:
            result = rule.combine(rows, **signals) if gram is None else rule(gram, **signals)
    return result


def signals_of(claims: Claims, rows, losses, step, names=None):
    """The signals that a rule declares, those that a user would pass to ``backward`` among them."""
    declared = Signals.of(claims.rule)
    signals = declared.select(
        {
            "names": NAMES[: rows.shape[0]] if names is None else names,
            "losses": losses,
            "step": step,
            **statistics(declared, rows),
        }
    )
    return signals | {name: 0 * losses[0] + value for name, value in claims.signals.items()}


def statistics(declared: Signals, rows):
    if not declared.statistics:
        return {}
    xp = array_namespace(rows)
    entries = xp.abs(xp.reshape(rows, (rows.shape[0], -1)))
    return {"max_abs": xp.max(entries, axis=-1), "mean_abs": xp.mean(entries, axis=-1)}


def outcome(claims: Claims, problem: Problem, steps=2) -> Outcome:
    if problem.on_host:
        decided = decide(claims, problem.rows, problem.losses, steps=steps)
    else:
        rows, losses, gram = map(torch.tensor, (problem.rows, problem.losses, problem.rows @ problem.rows.T))
        decided = decide(claims, rows, losses, steps=steps, gram=gram).numpy()
    if isinstance(claims.rule, CoordinateRule):
        return Outcome(decided, None, problem.m * np.abs(problem.rows).max())
    size = np.sum(np.abs(decided) * np.linalg.norm(problem.rows, axis=1))
    return Outcome(problem.rows.T @ decided, decided, size)


@st.composite
def problems(draw, claims: Claims, agreeing=False, zero_rows=True, norms=6.0):
    """Gradients of any rank, some of them equal, opposed or zero, with norms that differ by up to 1e12."""
    low, high = claims.losses
    # few losses most of the time: what goes wrong goes wrong among five, and shows better there
    m = draw(st.one_of(st.integers(low, min(high, max(5, low))), st.integers(low, high)))
    k = draw(st.integers(1, m + 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.standard_normal((m, k))
    if agreeing:
        rows[:, 0] = 0.3 * np.linalg.norm(rows, axis=1) + np.abs(rows[:, 0])
    for i in range(m):
        kinds = (
            ["new", "new", "new", "equal"]
            + ["opposed"] * (not agreeing)
            + ["zero"] * (zero_rows and NAMES[i] not in claims.needs)
        )
        kind = draw(st.sampled_from(kinds))
        if kind == "zero":
            rows[i] = 0
        elif kind != "new" and i > 0:
            rows[i] = rows[draw(st.integers(0, i - 1))] * (1 if kind == "equal" else -1)
    exponents = draw(st.lists(st.floats(-norms, norms), min_size=m, max_size=m))
    # by powers of two, so that equal and opposed gradients stay so to the last bit
    factors = 2.0 ** np.round(np.array(exponents) * np.log2(10))
    return Problem(rows, rng.uniform(0.2, 3.0, m), on_host=draw(st.booleans())).scaled(factors)


def claiming(claim: str):
    """Parametrise a test over the rules that make a claim."""
    return pytest.mark.parametrize("claims", [c for c in CLAIMS if getattr(c, claim)], ids=lambda c: c.name)


every_rule = pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)


def test_every_rule_is_in_the_list():
    listed = {type(claims.rule).__name__ for claims in CLAIMS}
    assert len({claims.name for claims in CLAIMS}) == len(CLAIMS)
    assert listed == {name for name in rules.__all__ if isinstance(getattr(rules, name), type)}


# ---- claims


@claiming("non_conflicting")
@given(data=st.data())
@few_examples
def test_non_conflicting(claims, data):
    problem = data.draw(problems(claims))
    found = outcome(claims, problem)
    length, norms = np.linalg.norm(found.direction), np.linalg.norm(problem.rows, axis=1)
    # the last term is rounding: the rule knows the gradients from their rounded inner products only
    assert np.all(problem.rows @ found.direction >= -norms * (1e-6 * length + 1e4 * EPS * found.size))


@pytest.mark.parametrize("claims", [c for c in CLAIMS if c.degree is not None], ids=lambda c: c.name)
@given(data=st.data())
@few_examples
def test_scales_with_its_degree(claims, data):
    problem = data.draw(problems(claims))
    factor = 2.0 ** data.draw(st.integers(-100, 100))
    before, after = outcome(claims, problem), outcome(claims, problem.scaled(np.full(problem.m, factor)))
    after_scaled_back = after.direction * factor**-claims.degree
    assert np.linalg.norm(after_scaled_back - before.direction) <= 1e-9 * before.size


@claiming("invariant_to_loss_scale")
@given(data=st.data())
@few_examples
def test_loss_scale_does_not_turn_the_direction(claims, data):
    problem = data.draw(problems(claims, norms=2.0))
    factors = 2.0 ** np.array(data.draw(st.lists(st.integers(-15, 15), min_size=problem.m, max_size=problem.m)))
    before, after = outcome(claims, problem), outcome(claims, problem.scaled(factors))
    lengths = np.linalg.norm(before.direction), np.linalg.norm(after.direction)
    if lengths[0] > 1e-6 * before.size:
        turned = after.direction / lengths[1] - before.direction / lengths[0]
        assert np.linalg.norm(turned) <= 1e-8 * before.size / lengths[0]


@claiming("permutation_equivariant")
@given(data=st.data())
@few_examples
def test_order_of_losses_does_not_matter(claims, data):
    problem = data.draw(problems(claims))
    order = np.array(data.draw(st.permutations(range(problem.m))), dtype=int)
    before, after = outcome(claims, problem), outcome(claims, problem.only(order))
    # 1e-7: which of two dependent gradients carries a weight is up to the order, at the cost of sqrt(eps)
    assert np.linalg.norm(after.direction - before.direction) <= 1e-7 * before.size


@claiming("vanishes_only_where_stationary")
@given(data=st.data())
@few_examples
def test_moves_wherever_all_losses_can_fall(claims, data):
    problem = data.draw(problems(claims, agreeing=True))
    if np.any(problem.rows):
        found = outcome(claims, problem)
        assert np.linalg.norm(found.direction) >= 1e-6 * found.size > 0


@claiming("linear_under_scaling")
@given(data=st.data())
@few_examples
def test_linear_under_scaling(claims, data):
    problem = data.draw(problems(claims))
    positive = st.lists(st.floats(0.01, 100), min_size=problem.m, max_size=problem.m)
    one, other = (np.array(data.draw(positive)) for _ in range(2))
    parts = [outcome(claims, problem.scaled(factors)) for factors in (one, other)]
    whole = outcome(claims, problem.scaled(one + other))
    assert np.linalg.norm(whole.direction - parts[0].direction - parts[1].direction) <= 1e-7 * whole.size


@claiming("differentiable")
def test_derivative_is_that_of_finite_differences(claims):
    rng = np.random.default_rng(7)
    m = max(3, claims.losses[0]) if claims.losses[1] >= 3 else claims.losses[1]
    root = torch.tensor(rng.standard_normal((m, m + 3)))
    tangent = torch.tensor(rng.standard_normal((m, m + 3)))
    losses = torch.tensor(rng.uniform(0.2, 3.0, m))

    def decided(t):
        return decide(claims, root + t * tangent, losses)

    # forward differences of the rule itself; 1e-5 is where truncation and rounding of a central difference meet
    step = 1e-5
    numeric = (decided(step) - decided(-step)) / (2 * step)
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    analytic = torch.zeros_like(numeric)
    values = decided(t)
    if values.requires_grad:
        analytic = torch.stack([torch.autograd.grad(v, t, retain_graph=True)[0] for v in values])
    torch.testing.assert_close(analytic, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("claims", [c for c in CLAIMS if not c.reads_gradients], ids=lambda c: c.name)
@given(data=st.data())
@few_examples
def test_weights_without_looking_at_the_gradients(claims, data):
    problem = data.draw(problems(claims, zero_rows=False))
    others = np.random.default_rng(0).standard_normal((problem.m, 4))
    found = outcome(claims, problem).weights
    np.testing.assert_allclose(outcome(claims, Problem(others, problem.losses)).weights, found, rtol=1e-12)


def test_rules_that_ask_for_no_gradients_claim_not_to_read_them():
    """And those that go by the losses alone do ask for none; fixed weights keep the gradients in view."""
    without = {c.name for c in CLAIMS if not getattr(c.rule, "needs_gradients", True)}
    assert without == {c.name for c in CLAIMS if not c.reads_gradients and "losses" in c.kind}
    assert without


# ---- what every rule does


@every_rule
@given(data=st.data())
@few_examples
def test_finite_and_zero_gradients_left_out(claims, data):
    problem = data.draw(problems(claims))
    found = outcome(claims, problem)
    active = np.any(problem.rows != 0, axis=1)
    assert np.all(np.isfinite(found.direction))
    if found.weights is not None:
        assert np.all(np.isfinite(found.weights))
        assert np.all(found.weights[~active] == 0)
    if claims.permutation_equivariant and active.sum() >= max(claims.losses[0], 1):
        without = outcome(claims, problem.only(active))
        assert np.linalg.norm(without.direction - found.direction) <= 1e-7 * found.size


@every_rule
@given(data=st.data())
@few_examples
def test_both_forms_have_one_direction(claims, data):
    """LAPACK and loops that end, on NumPy arrays, and array code of fixed length, on tensors."""
    if isinstance(claims.rule, SDMGrad):
        # at its default rate the weights jump about, and a rounding error grows ninefold with each of the iterations
        claims = replace(claims, rule=SDMGrad(lr=0.1))
    if isinstance(claims.rule, CAGrad):
        # among more, dependent ones, the steps of the array code may end in an active set that is not the best
        claims = replace(claims, losses=(1, 8))
    problem = data.draw(problems(claims))
    host, array = (outcome(claims, replace(problem, on_host=on_host)) for on_host in (True, False))
    assert np.linalg.norm(array.direction - host.direction) <= 1e-10 * max(host.size, array.size)


@every_rule
def test_arrays_of_what_came_in(claims):
    for dtype in (torch.float32, torch.float64):
        rows, losses = example(claims, dtype=dtype)
        assert decide(claims, rows, losses).dtype == dtype
        assert decide(claims, rows.numpy(), losses.numpy()).dtype == rows.numpy().dtype


def example(claims: Claims, m=3, dtype=torch.float64, seed=0):
    m = min(max(m, claims.losses[0]), claims.losses[1])
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.standard_normal((m, 5)), dtype=dtype)
    return rows, torch.tensor(rng.uniform(0.2, 3.0, m), dtype=dtype)


@every_rule
def test_vmap_is_a_loop(claims):
    batch = [example(claims, seed=seed) for seed in range(3)]
    rows, losses = (torch.stack(parts) for parts in zip(*batch, strict=True))
    rows[1, 0] = 0
    loop = torch.stack([decide(claims, r, x) for r, x in zip(rows, losses, strict=True)])
    torch.testing.assert_close(torch.vmap(lambda r, x: decide(claims, r, x))(rows, losses), loop)


@every_rule
def test_runs_on_fake_tensors(claims):
    """No value is read by the host: fake tensors have none."""
    with FakeTensorMode() as mode:
        rows, losses = (mode.from_tensor(x) for x in example(claims))
        found = decide(claims, rows, losses)
    assert found.shape == (rows.shape[1:] if isinstance(claims.rule, CoordinateRule) else rows.shape[:1])


# NashMTL compiles the same solver as the first, AlignedMTL and MGDA the loops of the others
SLOW_TO_COMPILE = {"FairGrad(alpha=0.5)", "ConFIG", "SDMGrad"}


@pytest.mark.parametrize(
    "claims",
    [pytest.param(c, id=c.name, marks=pytest.mark.slow if c.name in SLOW_TO_COMPILE else ()) for c in CLAIMS],
)
def test_compiled_is_eager(claims):
    rows, losses = example(claims)
    torch.compiler.reset()
    compiled = torch.compile(lambda r, x: decide(claims, r, x, steps=1), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows, losses), decide(claims, rows, losses, steps=1))


@every_rule
def test_float32_stays_float32_and_inputs_stay_as_they_were(claims):
    rows, losses = example(claims, dtype=torch.float32)
    before = rows.clone(), losses.clone()
    assert decide(claims, rows, losses).dtype == torch.float32
    assert torch.equal(rows, before[0])
    assert torch.equal(losses, before[1])


@pytest.mark.parametrize("claims", [c for c in CLAIMS if isinstance(c.rule, StatefulRule)], ids=lambda c: c.name)
def test_state_is_passed_and_returned(claims):
    rows, losses = example(claims)
    gram = rows @ rows.T
    signals = signals_of(claims, rows, losses, torch.tensor(0))
    state = claims.rule.init(gram)
    before = {name: value.clone() for name, value in state.items()}
    first, after = claims.rule.update(gram, state, **signals)
    again, _ = claims.rule.update(gram, state, **signals)
    assert torch.equal(first, again)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert set(after) == set(state)
    assert all((v.shape, v.dtype) == (before[name].shape, before[name].dtype) for name, v in after.items())


# ---- the tests can fail


def test_a_false_claim_is_found():
    """Every claim is denied by some rule, and the test of that claim notices when the rule makes it all the same."""
    by_name = {claims.name: claims for claims in CLAIMS}
    projection = by_name["OrthogonalProjection"]
    false_claims = [
        (test_non_conflicting, replace(by_name["Sum"], non_conflicting=True)),
        (test_scales_with_its_degree, replace(by_name["Sum"], degree=0)),
        (test_loss_scale_does_not_turn_the_direction, replace(by_name["Sum"], invariant_to_loss_scale=True)),
        (test_order_of_losses_does_not_matter, replace(projection, permutation_equivariant=True)),
        (test_moves_wherever_all_losses_can_fall, replace(projection, vanishes_only_where_stationary=True)),
        (test_linear_under_scaling, replace(by_name["AngleBisector"], linear_under_scaling=True)),
    ]
    for test, claims in false_claims:
        with pytest.raises((AssertionError, ExceptionGroup)):
            test(claims)
