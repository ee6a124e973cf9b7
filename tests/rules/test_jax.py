"""Every rule on JAX arrays: what it decides on NumPy's, under ``jax.jit``, ``jax.vmap`` and ``jax.lax.scan``.

JAX is imported by the tests and not with this file: whoever runs other tests need not wait for it.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.rule import CoordinateRule, StatefulRule
from gradweight.rules import CAGrad, SDMGrad, from_torchjd
from gradweight.rules.claims import CLAIMS, Claims

from .problems import Problem, decide, few_examples, outcome, problems, signals_of

BATCH, STEPS = 4, 3

# at its default rate the weights jump about, and a rounding error grows ninefold with each of the iterations
RULES = [replace(c, rule=SDMGrad(lr=0.1)) if isinstance(c.rule, SDMGrad) else c for c in CLAIMS]
# three losses, and where a rule has other solvers for two and for nine, those numbers too
BY_NUMBER = {2: ("UPGrad", "MGDA", "CAGrad", "FairGrad(alpha=0.5)"), 9: ("UPGrad",)}
CASES = [(claims, min(max(3, claims.losses[0]), claims.losses[1])) for claims in RULES]
CASES += [(claims, m) for m, names in BY_NUMBER.items() for claims in RULES if claims.name in names]
every_rule = pytest.mark.parametrize(("claims", "m"), CASES, ids=[f"{claims.name}-{m}" for claims, m in CASES])
# seconds each to compile; NashMTL and FairGrad for two have the same solver as the first, and the wrappers UPGrad's
SLOW_TO_COMPILE = {
    ("FairGrad(alpha=0.5)", 3),
    ("CAGrad", 3),
    ("UPGrad", 9),
    ("Normalized", 3),
    ('Normalized(by="loss")', 3),
    ("Fade", 3),
}
every_rule_compiled = pytest.mark.parametrize(
    ("claims", "m"),
    [
        pytest.param(c, m, id=f"{c.name}-{m}", marks=pytest.mark.slow if (c.name, m) in SLOW_TO_COMPILE else ())
        for c, m in CASES
    ],
)


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax")


def decide_in_jax(jax, claims: Claims, rows, losses):
    """What `decide` decides, with the number of the step traced, and the state of a rule carried by a loop of JAX."""
    rule = claims.rule
    steps = jax.numpy.arange(STEPS)
    if isinstance(rule, CoordinateRule):
        return rule.combine(rows, **signals_of(claims, rows, losses, steps[0] + 5))
    gram = rows @ rows.T
    if not isinstance(rule, StatefulRule):
        return rule(gram, **signals_of(claims, rows, losses, steps[0] + 5))

    def update(state, step):
        weights, state = rule.update(gram, state, **signals_of(claims, rows, losses * 0.9**step, step + 5))
        return state, weights

    return jax.lax.scan(update, rule.init(gram), steps)[1][-1]


@every_rule_compiled
def test_jax_is_numpy_is_torch(jax, claims, m):
    """A batch of problems at once, compiled, in 64 bits."""
    k = m + 2

    # what is tested is the array code, and XLA is twice as fast if it does not optimise what it makes of it
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @jax.vmap
    def compiled(rows, losses):
        return decide_in_jax(jax, claims, rows, losses)

    # of gradients in general position, to rounding
    draw = np.random.default_rng(m)
    rows, losses = draw.standard_normal((BATCH, m, k)), draw.uniform(1, 2, (BATCH, m))
    with jax.enable_x64(True):
        decided = np.asarray(compiled(rows, losses))
    for found, problem in zip(decided, map(Problem, rows, losses), strict=True):
        for array in (np.asarray, torch.tensor):
            wanted = np.asarray(decide(claims, array(problem.rows), array(problem.losses), steps=STEPS))
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())

    @given(data=st.data())
    @settings(few_examples, max_examples=6)
    def check(data):
        batch = [data.draw(problems(replace(claims, losses=(m, m)))) for _ in range(BATCH)]
        # more coordinates, all of them zero, because what is compiled is of one shape
        rows = np.stack([np.pad(problem.rows, [(0, 0), (0, k - problem.rows.shape[1])]) for problem in batch])
        losses = np.stack([problem.losses for problem in batch])
        with jax.enable_x64(True):
            decided = compiled(rows, losses)
        assert decided.dtype == np.float64
        for found, problem in zip(np.asarray(decided), map(Problem, rows, losses), strict=True):
            expected = outcome(claims, problem, steps=STEPS)
            direction, size = found, expected.size
            if expected.weights is not None:
                norms = np.linalg.norm(problem.rows, axis=1)
                assert np.all(found[norms == 0] == 0)
                # where gradients cancel, rounding decides whether all weights are 0
                direction, size = problem.rows.T @ found, max(size, np.sum(np.abs(found) * norms))
            # inner products are summed in another order; nearly dependent gradients show that at sqrt(eps)
            assert np.linalg.norm(direction - expected.direction) <= 1e-7 * size

    check()


def test_cagrad_of_nine_losses(jax):
    """Of independent gradients: among dependent ones rounding may decide which active set its steps end in."""
    rows = np.random.default_rng(0).standard_normal((9, 12))
    gram = rows @ rows.T
    with jax.enable_x64(True):
        found = jax.jit(CAGrad())(gram)
    np.testing.assert_allclose(found, CAGrad()(gram), rtol=1e-9, atol=1e-12)


@every_rule
def test_traced_in_32_bits(jax, claims, m):
    """As JAX is by default, without integers of 64 bits: it warns of those, and a warning is an error here."""
    rows, losses = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((m, 5), (m,)))
    found = jax.eval_shape(lambda rows, losses: decide_in_jax(jax, claims, rows, losses), rows, losses)
    assert found.dtype == np.float32
    assert found.shape == ((5,) if isinstance(claims.rule, CoordinateRule) else (m,))


@pytest.mark.slow
def test_which_rules_of_three_losses_have_a_loop(jax):
    """Every turn of one waits for the host on a GPU; docs/optax.md says for which rules that is."""
    loops = set()
    for claims, m in CASES:
        if m != 3 or isinstance(claims.rule, CoordinateRule) or claims.averages:
            continue

        def weights(rows, losses, claims=claims):
            gram, rule = rows @ rows.T, claims.rule
            signals = signals_of(claims, rows, losses, jax.numpy.arange(1)[0])
            return (
                rule.update(gram, rule.init(gram), **signals)
                if isinstance(rule, StatefulRule)
                else rule(gram, **signals)
            )

        program = jax.jit(weights).lower(np.eye(3, dtype=np.float32), np.ones(3, np.float32)).as_text()
        if "stablehlo.while" in program or "stablehlo.custom_call" in program:
            loops.add(type(claims.rule).__name__)
    assert loops == {"AlignedMTL", "ConFIG", "FairGrad", "NashMTL", "SDMGrad"}


def test_a_rule_from_torchjd_takes_arrays_that_have_values(jax):
    aggregation = pytest.importorskip("torchjd.aggregation")
    rule = from_torchjd(aggregation.MeanWeighting())
    weights = rule(jax.numpy.eye(2))
    assert isinstance(weights, jax.Array)
    assert weights.tolist() == [0.5, 0.5]
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(rule)(jax.numpy.eye(2))
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.vmap(rule)(jax.numpy.eye(2)[None])
