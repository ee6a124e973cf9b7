"""Metrics of features and samples against SciPy, loops and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradweight.gan import classifier_score, frechet_distance, precision_recall, sliced_wasserstein

seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# ---- Fréchet distance


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(8, 40), st.integers(8, 40), seeds)
def test_frechet_is_the_published_formula_with_a_matrix_root(d, n, m, seed):
    real, fake = normal(seed, n, d) @ normal(seed + 1, d, d) + 3, normal(seed + 2, m, d)
    c_r, c_f = np.cov(real.numpy().T).reshape(d, d), np.cov(fake.numpy().T).reshape(d, d)
    root = scipy.linalg.sqrtm(c_r @ c_f).real
    expected = float((real.mean(0) - fake.mean(0)).square().sum()) + np.trace(c_r + c_f - 2 * root)
    # the oracle's root is of a matrix whose condition is that of both covariances together
    assert float(frechet_distance(real, fake)) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), seeds)
def test_frechet_of_scaled_and_shifted_features(d, seed):
    # C_f = s^2 C_r, so that the root is s C_r
    real, shift, scale = normal(seed, 20, d), normal(seed + 1, d), 2.5
    centred = real - real.mean(0)
    expected = (centred.mean(0) + shift).square().sum() + (1 - scale) ** 2 * centred.square().sum() / 19
    assert float(frechet_distance(centred, scale * centred + shift)) == pytest.approx(float(expected), rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(2, 30), seeds)
def test_frechet_of_fewer_samples_than_features(n, m, seed):
    real, fake = normal(seed, n, 20), normal(seed + 1, m, 20)
    distance = frechet_distance(real, fake)
    assert torch.isfinite(distance)
    assert float(distance) == pytest.approx(float(frechet_distance(fake, real)), rel=1e-10)
    # of order eps times the trace, not its root: no matrix is squared
    assert 0 <= float(frechet_distance(real, real.flip(0))) < 1e-12
    rotation = torch.linalg.qr(normal(seed + 2, 20, 20)).Q
    assert float(frechet_distance(real @ rotation, fake @ rotation)) == pytest.approx(float(distance), rel=1e-10)


def test_frechet_keeps_its_digits_in_float32_far_from_the_origin():
    x = normal(0, 1000, 4).float() + 1000
    assert frechet_distance(x, x + 1).dtype == torch.float32
    assert float(frechet_distance(x, x + 1)) == pytest.approx(4, rel=1e-5)  # the shift itself is rounded at 1000


# ---- classifier score


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 8), seeds)
def test_classifier_score_is_the_exponential_of_the_mean_divergence(n, k, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), size=n)
    expected = math.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert float(classifier_score(torch.from_numpy(p))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 10])
def test_classifier_score_at_its_ends(k):
    assert float(classifier_score(torch.eye(k, dtype=torch.float64).repeat(3, 1))) == pytest.approx(k, rel=1e-14)
    assert float(classifier_score(torch.eye(k, dtype=torch.float64)[:1].repeat(4, 1))) == pytest.approx(1, rel=1e-14)


# ---- precision and recall


def share_by_loop(points, support, k):
    inside = 0
    for point in points:
        for j, centre in enumerate(support):
            others = sorted(math.dist(centre, x) for i, x in enumerate(support) if i != j)
            if math.dist(point, centre) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(5, 20), st.integers(5, 20), st.integers(1, 3), st.integers(1, 30), seeds)
def test_precision_and_recall_are_the_definitions(k, n, m, d, chunk, seed):
    real, fake = normal(seed, n, d), 1.5 * normal(seed + 1, m, d)
    precision, recall = precision_recall(real, fake, neighbours=k, chunk=chunk)
    assert float(precision) == pytest.approx(share_by_loop(fake.tolist(), real.tolist(), k), abs=1e-12)
    assert float(recall) == pytest.approx(share_by_loop(real.tolist(), fake.tolist(), k), abs=1e-12)


def test_dropping_modes_costs_recall_and_noise_costs_precision():
    centres = 100 * torch.eye(4, dtype=torch.float64)
    real = centres.repeat_interleave(50, 0) + normal(0, 200, 4)
    collapsed = centres[:2].repeat_interleave(100, 0) + normal(1, 200, 4)
    precision, recall = precision_recall(real, collapsed)
    # a cluster's outermost points lie in no ball of another's three neighbours
    assert precision > 0.8
    assert 0.4 < recall <= 0.5
    scattered = torch.cat([real[::2] + 0.1, 1000 + 100 * normal(2, 100, 4)])
    precision, _ = precision_recall(real, scattered)
    assert precision == pytest.approx(0.5, abs=0.01)


# ---- sliced Wasserstein


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 30), st.integers(1, 30), seeds)
def test_one_dimension_is_exact_for_unequal_numbers_too(n, m, seed):
    # rounded, so that values tie
    x, y = normal(seed, n, 1).round(decimals=1), 2 * normal(seed + 1, m, 1).round(decimals=1)
    expected = scipy.stats.wasserstein_distance(x.flatten().numpy(), y.flatten().numpy())
    assert float(sliced_wasserstein(x, y, order=1)) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    repeated = sliced_wasserstein(x.repeat_interleave(m, 0), y.repeat_interleave(n, 0), order=3)
    assert float(sliced_wasserstein(x, y, order=3)) == pytest.approx(float(repeated), rel=1e-12, abs=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 20), seeds)
def test_a_translation_costs_its_length_over_the_root_of_the_dimension(d, n, seed):
    x, shift = normal(seed, n, d), normal(seed + 1, d)
    # E <theta, t>^2 = |t|^2 / d, with a relative variance of at most 2 over 4096 directions: five sigma
    expected = float(shift.norm()) / math.sqrt(d)
    assert float(sliced_wasserstein(x, x + shift, projections=4096)) == pytest.approx(expected, rel=0.06)
    assert float(sliced_wasserstein(x, x.flip(0))) == pytest.approx(0, abs=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 2.0, 3.5]), seeds)
def test_leading_dimensions_symmetry_and_scale(d, n, m, order, seed):
    x, y = normal(seed, 2, 3, n, d), normal(seed + 1, 2, 3, m, d)
    together = sliced_wasserstein(x, y, order=order, projections=16)
    assert together.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = sliced_wasserstein(x[index], y[index], order=order, projections=16)
        torch.testing.assert_close(together[index], alone, rtol=1e-12, atol=0)
    torch.testing.assert_close(sliced_wasserstein(y, x, order=order, projections=16), together, rtol=1e-12, atol=0)
    scaled = sliced_wasserstein(7 * x, 7 * y, order=order, projections=16)
    torch.testing.assert_close(scaled, 7 * together, rtol=1e-12, atol=0)


def test_the_seed_alone_decides_the_directions():
    x, y = normal(0, 10, 3), normal(1, 10, 3)
    before = torch.get_rng_state()
    first = sliced_wasserstein(x, y, projections=4, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert first == sliced_wasserstein(x, y, projections=4, seed=5)
    assert first != sliced_wasserstein(x, y, projections=4, seed=6)


# ---- what is refused


def test_arguments_are_checked():
    x = torch.zeros(8, 2)
    for call, message in [
        (lambda: frechet_distance(torch.zeros(1, 2), x), r"real must have shape \(n, d\) with n >= 2; got \(1, 2\)"),
        (lambda: frechet_distance(x, torch.zeros(8, 3)), "features of one network; got 2 and 3"),
        (lambda: classifier_score(torch.zeros(3)), r"probabilities must have shape \(n, k\).*got \(3,\)"),
        (lambda: precision_recall(x, torch.zeros(3, 2)), r"fake must have shape.*neighbours = 3; got \(3, 2\)"),
        (lambda: precision_recall(x, torch.zeros(8, 1)), "features of one network; got 2 and 1"),
        (lambda: precision_recall(x, x, neighbours=0), "neighbours >= 1"),
        (lambda: sliced_wasserstein(x[0], x), r"first must have shape \(\.\.\., n, d\) with n >= 1; got \(2,\)"),
        (lambda: sliced_wasserstein(x, torch.zeros(8, 3)), r"shapes \(8, 2\) and \(8, 3\)"),
        (lambda: sliced_wasserstein(x, x, projections=0), "projections >= 1; got 0"),
        (lambda: sliced_wasserstein(x, x, order=0.5), "order >= 1, finite; got 0.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_the_directions_do_not_depend_on_the_default_device():
    x, y = normal(0, 9, 3), normal(1, 9, 3)
    expected = sliced_wasserstein(x, y)
    with torch.device("meta"):
        assert torch.equal(sliced_wasserstein(x, y), expected)
