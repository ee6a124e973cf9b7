"""Gradients to try a rule on, and what it makes of them: its weights, its direction, the signals that it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from gradweight.rule import CoordinateRule, Signals, StatefulRule, array_namespace
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


def example(claims: Claims, m=3, dtype=torch.float64, seed=0):
    m = min(max(m, claims.losses[0]), claims.losses[1])
    rng = np.random.default_rng(seed)
    rows = torch.tensor(rng.standard_normal((m, 5)), dtype=dtype)
    return rows, torch.tensor(rng.uniform(0.2, 3.0, m), dtype=dtype)
