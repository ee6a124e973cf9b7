"""What every rule must do, whatever it claims: run on every rule of the list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight.rule import CoordinateRule, StatefulRule
from gradweight.rules import CAGrad, SDMGrad
from gradweight.rules.claims import CLAIMS

from ..representatives import others_slow
from .problems import (
    decide,
    every_rule,
    example,
    few_examples,
    outcome,
    problems,
    signals_of,
)


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


@pytest.mark.parametrize("claims", others_slow())
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
