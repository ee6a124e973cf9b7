"""Every claim of `gradweight.rules.claims`, held on every rule of the list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradweight import rules
from gradweight.rules.claims import CLAIMS

from .problems import (
    EPS,
    Problem,
    claiming,
    decide,
    few_examples,
    outcome,
    problems,
)


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
