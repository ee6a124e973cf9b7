"""The mode metrics against a loop in NumPy, closed forms, and what must not change them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradweight.gan import high_quality_share, mode_kl, modes_covered

ring = torch.tensor([[math.cos(2 * math.pi * i / 8), math.sin(2 * math.pi * i / 8)] for i in range(8)]).double()


@st.composite
def mixtures(draw):
    """Modes, a standard deviation, and samples scattered so that some are near a mode and some are not."""
    k, d, n = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    modes = random.normal(size=(k, d))
    std = draw(st.floats(0.01, 1.0))
    samples = modes[random.integers(k, size=n)] + 2 * std * random.normal(size=(n, d))
    return torch.from_numpy(samples), torch.from_numpy(modes), std


def oracle(samples, modes, std, radius, at_least):
    """Modes covered, high-quality share and KL of the definitions, one sample after the other."""
    good, near = np.zeros(len(modes)), np.zeros(len(modes))
    for sample in samples.numpy():
        distances = [math.dist(sample, mode) for mode in modes.numpy()]
        j = int(np.argmin(distances))
        near[j] += 1
        good[j] += distances[j] <= radius * std
    p = near / len(samples)
    kl = sum(share * math.log(share * len(modes)) for share in p if share > 0)
    return sum(good >= at_least), good.sum() / len(samples), kl


@settings(deadline=None, max_examples=100)
@given(mixtures(), st.floats(0.5, 4.0), st.integers(1, 4))
def test_definitions(mixture, radius, at_least):
    samples, modes, std = mixture
    covered, share, kl = oracle(samples, modes, std, radius, at_least)
    assert modes_covered(samples, modes, std, radius=radius, at_least=at_least) == covered
    assert float(high_quality_share(samples, modes, std, radius=radius)) == pytest.approx(share, abs=1e-15)
    assert float(mode_kl(samples, modes)) == pytest.approx(kl, abs=1e-13)


@settings(deadline=None, max_examples=50)
@given(mixtures(), st.randoms(use_true_random=False))
def test_order_of_samples_and_modes_does_not_matter(mixture, random):
    samples, modes, std = mixture
    shuffled = torch.stack(random.sample(list(samples), len(samples)))
    renamed = torch.stack(random.sample(list(modes), len(modes)))
    assert modes_covered(shuffled, renamed, std) == modes_covered(samples, modes, std)
    assert high_quality_share(shuffled, renamed, std) == high_quality_share(samples, modes, std)
    # the terms of the sum are added in another order
    torch.testing.assert_close(mode_kl(shuffled, renamed), mode_kl(samples, modes), rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=50)
@given(mixtures())
def test_leading_dimensions_are_separate_sets(mixture):
    samples, modes, std = mixture
    assume(len(samples) >= 2)
    half = len(samples) // 2
    batch = torch.stack([samples[:half], samples[half : 2 * half]]).unsqueeze(1)
    for metric in (
        lambda x: modes_covered(x, modes, std),
        lambda x: high_quality_share(x, modes, std),
        lambda x: mode_kl(x, modes),
    ):
        each = torch.stack([metric(samples[:half]), metric(samples[half : 2 * half])])
        torch.testing.assert_close(metric(batch), each.unsqueeze(1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("d", "probability"),
    [(1, math.erf(3 / math.sqrt(2))), (2, 1 - math.exp(-4.5))],
)
def test_the_mixture_itself_reaches_the_chi_square_probability(d, probability):
    n = 200_000
    random = torch.Generator().manual_seed(0)
    modes = 10.0 * torch.arange(8, dtype=torch.float64).unsqueeze(1).expand(8, d)
    samples = modes[torch.randint(8, (n,), generator=random)]
    samples = samples + 0.1 * torch.randn(n, d, dtype=torch.float64, generator=random)
    # five standard deviations of a share over n draws
    tolerance = 5 * math.sqrt(probability * (1 - probability) / n)
    assert float(high_quality_share(samples, modes, 0.1)) == pytest.approx(probability, abs=tolerance)
    assert modes_covered(samples, modes, 0.1) == 8
    # 2 n KL is chi-square of 7 degrees of freedom, below 40 but for one draw in a million
    assert 0 <= float(mode_kl(samples, modes)) < 40 / (2 * n)


@pytest.mark.parametrize("collapsed", range(1, 9))
def test_collapse_to_some_modes(collapsed):
    samples = ring[:collapsed].repeat(3, 1)
    assert modes_covered(samples, ring, 0.01) == collapsed
    assert high_quality_share(samples, ring, 0.01) == 1
    assert float(mode_kl(samples, ring)) == pytest.approx(math.log(8 / collapsed), abs=1e-14)


def test_kl_from_given_shares_is_zero_where_they_are_met():
    samples = ring[torch.tensor([0, 0, 0, 1])]
    assert float(mode_kl(samples, ring[:2], shares=torch.tensor([3.0, 1.0]))) == pytest.approx(0, abs=1e-15)
    assert float(mode_kl(samples, ring[:2], shares=torch.tensor([1.0, 1.0]))) > 0.1


def test_three_standard_deviations_survive_float32_far_from_the_origin():
    # |x|^2 + |c|^2 - 2xc has no digit of 0.03^2 left at 1e3 in float32, and comes into use above 25 points
    centre = torch.tensor([[1024.0, 1024.0]])
    offsets = torch.arange(0.0, 0.06, 0.001)
    samples = centre + torch.stack([offsets, torch.zeros_like(offsets)], dim=1)
    modes = torch.cat([centre, centre + 100 * torch.arange(1, 31).unsqueeze(1)])
    inside = (samples - centre).norm(dim=1) <= 0.03  # what is left of the offsets after rounding at 1024
    assert 0 < inside.sum() < len(samples)
    assert high_quality_share(samples, modes, 0.01) == inside.float().mean()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_sample_is_near_no_mode(bad):
    samples = torch.cat([ring, torch.tensor([[bad, 0.0]]).double()])
    assert modes_covered(samples, ring, 0.01) == 8
    assert float(high_quality_share(samples, ring, 0.01)) == pytest.approx(8 / 9)
    assert modes_covered(samples[-1:], ring, 0.01, radius=math.inf) == 0
    assert mode_kl(samples, ring).isnan()


def test_arguments_are_checked():
    samples = torch.zeros(4, 2)
    for call, message in [
        (lambda: modes_covered(torch.zeros(4), ring, 0.01), r"samples must have shape \(\.\.\., n, d\)"),
        (lambda: mode_kl(torch.zeros(0, 2), ring), "n >= 1"),
        (lambda: high_quality_share(samples, torch.zeros(8, 3), 0.01), r"shape \(k, 2\).*got \(8, 3\)"),
        (lambda: high_quality_share(samples, ring, 0.0), "std must be > 0 and finite; got 0.0"),
        (lambda: modes_covered(samples, ring, 0.01, radius=-1.0), "radius must be > 0; got -1.0"),
        (lambda: modes_covered(samples, ring, 0.01, at_least=0), "at_least >= 1; got 0"),
        (lambda: mode_kl(samples, ring, shares=torch.ones(7)), r"shape \(8,\); got shape \(7,\)"),
        (lambda: mode_kl(samples, torch.zeros(0, 2)), r"with k >= 1, .*got \(0, 2\)"),
        (lambda: mode_kl(samples, torch.zeros(2)), r"shape \(k, 2\) .*got \(2,\)"),
        (lambda: modes_covered(samples, ring, math.inf), "std must be > 0 and finite; got inf"),
        (lambda: modes_covered(samples, ring, 0.01, radius=0.0), "radius must be > 0; got 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_samples_in_half_precision(dtype):
    """What a generator returns under autocast."""
    modes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    samples = torch.tensor([[0.0, 0.0], [0.0, 0.015625], [1.0, 0.0], [0.5, 0.25]]).to(dtype)
    assert modes_covered(samples, modes, std=0.01) == modes_covered(samples.float(), modes, std=0.01) == 2
    assert high_quality_share(samples, modes, std=0.01) == 0.75
    torch.testing.assert_close(mode_kl(samples, modes).float(), mode_kl(samples.float(), modes), rtol=1e-2, atol=0)
