"""The counter-based generator, and the rule that is nothing else."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gradweight import MultiObjectiveGradient
from gradweight.rules import Random
from gradweight.rules._solvers.draws import normals, permutations, uniforms

LIKE = np.zeros(1)


def test_uniforms_are_uniform():
    drawn = uniforms(0, 0, (1000, 200), LIKE)
    assert drawn.min() > 0
    assert drawn.max() < 1
    # a fixed seed: this either holds or it does not
    assert stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("which", ["seed", "step", "salt"])
def test_streams_are_independent(which):
    """Neighbouring seeds, steps and salts, a grid of 300 x 300 draws: rows and columns are uncorrelated."""
    grid = np.stack(
        [uniforms(**{"seed": 3, "step": 8, "salt": 0, which: i}, shape=(300,), like=LIKE) for i in range(300)]
    )
    assert stats.kstest(grid.ravel(), "uniform").pvalue > 0.01
    for table in (grid, grid.T):
        correlation = np.corrcoef(table)[np.triu_indices(300, 1)] * np.sqrt(300)
        # 44,850 standard normal numbers: the largest of them is expected at 4.4
        assert np.abs(correlation).max() < 6
        assert correlation.std() == pytest.approx(1, abs=0.05)


def test_lags_of_one_stream_are_independent():
    drawn = uniforms(0, 0, (100_000,), LIKE)
    for lag in (1, 2, 3, 64, 256):
        assert abs(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]) < 4 / np.sqrt(100_000)


def test_normals_are_normal():
    drawn = normals(1, 2, (100_000,), LIKE)
    assert np.isfinite(drawn).all()
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_permutations_are_equally_likely():
    drawn = permutations(0, 5, 24_000, 4, LIKE)
    counts = [int(np.all(drawn == np.array(order), axis=1).sum()) for order in itertools.permutations(range(4))]
    assert sum(counts) == 24_000
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_numbers_everywhere(dtype):
    expected = uniforms(2**40 + 1, 12, (3, 5), LIKE)
    like = torch.zeros(1, dtype=dtype)
    found = uniforms(2**40 + 1, torch.tensor(12), (3, 5), like)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.double().numpy(), expected)
    compiled = torch.compile(lambda step: uniforms(2**40 + 1, step, (3, 5), like), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(torch.tensor(12)), found)


def test_the_same_numbers_in_jax():
    jax = pytest.importorskip("jax")
    expected = uniforms(2**40 + 1, 12, (3, 5), LIKE, salt=7)
    found = jax.jit(lambda step, salt: uniforms(2**40 + 1, step, (3, 5), jax.numpy.zeros(1), salt=salt))(12, 7)
    np.testing.assert_array_equal(np.asarray(found, dtype=float), expected)


def test_no_warning_at_the_ends_of_the_integers():
    """NumPy would warn of an overflow, and a warning is an error here."""
    for seed, step in itertools.product((0, -1, 2**63 - 1), (0, 2**31, 2**62)):
        assert np.isfinite(uniforms(seed, np.int64(step), (4,), LIKE)).all()


def test_weights_are_a_softmax_of_normals():
    weights = Random(seed=4)(np.eye(3), step=9)
    expected = np.exp(normals(4, 9, (3,), LIKE))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-14)


def test_resumed_run_draws_what_the_uninterrupted_one_does():
    def run(steps, state=None):
        p = torch.nn.Parameter(torch.zeros(2))
        opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), Random())
        if state is not None:
            opt.load_state_dict(state)
        weights = []
        for _ in range(steps):
            opt.zero_grad()
            weights.append(opt.backward({"a": p[0] - 1, "b": p.sum()}).weights)
            opt.step()
        return torch.stack(weights), opt.state_dict()

    whole, _ = run(4)
    first, state = run(2)
    second, _ = run(2, state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert len({tuple(w.tolist()) for w in whole}) == 4


def test_draws_are_these():
    """What a resumed run repeats must not change from one version to the next."""
    np.testing.assert_array_equal(
        uniforms(1, 2, (3,), LIKE), [0.6052537560462952, 0.1036493182182312, 0.12380212545394897]
    )
    np.testing.assert_allclose(
        normals(1, 2, (3,), LIKE), [0.21818103551566745, 0.7542752356626204, -1.233107687483672], rtol=1e-14
    )
    np.testing.assert_allclose(
        Random(seed=1)(np.eye(3), step=2), [0.3397217162324884, 0.5806922933323192, 0.0795859904351923], rtol=1e-14
    )
