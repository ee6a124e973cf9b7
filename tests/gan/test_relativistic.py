"""Relativistic losses against their definitions, sample by sample."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradweight.gan import Alpha, Hinge, LeastSquares, Relativistic, Vanilla

values = st.lists(st.floats(-10, 10), min_size=1, max_size=10)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


BASES = {
    Vanilla(): (lambda s: -log_sigmoid(s), lambda s: -log_sigmoid(-s)),
    Hinge(): (lambda s: max(0, 1 - s), lambda s: max(0, 1 + s)),
    LeastSquares(fake_target=-1.0): (lambda s: (s - 1) ** 2 / 2, lambda s: (s + 1) ** 2 / 2),
}


def mean(terms):
    terms = list(terms)
    return sum(terms) / len(terms)


@given(values, values, st.sampled_from(list(BASES)), st.booleans())
def test_average(real, fake, base, saturating):
    on_real, on_fake = BASES[base]
    middle_real, middle_fake = mean(real), mean(fake)
    loss = Relativistic(base, saturating=saturating)
    r, f = torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    d_real, d_fake = mean(on_real(s - middle_fake) for s in real), mean(on_fake(s - middle_real) for s in fake)
    terms = loss.discriminator(r, f)
    assert terms["real"].item() == pytest.approx(d_real, rel=1e-12, abs=1e-12)
    assert terms["fake"].item() == pytest.approx(d_fake, rel=1e-12, abs=1e-12)
    terms = loss.generator(f, r)
    g_real, g_fake = mean(on_fake(s - middle_fake) for s in real), mean(on_real(s - middle_real) for s in fake)
    assert terms["real"].item() == pytest.approx(-d_real if saturating else g_real, rel=1e-12, abs=1e-12)
    assert terms["fake"].item() == pytest.approx(-d_fake if saturating else g_fake, rel=1e-12, abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=10), st.sampled_from(list(BASES))
)
def test_pairs(pairs, base):
    on_real, _ = BASES[base]
    r, f = (torch.tensor(values, dtype=torch.float64).requires_grad_() for values in zip(*pairs, strict=True))
    terms = Relativistic(base, average=False).discriminator(r, f)
    whole = base.on_real(r - f).mean()
    for term in terms.values():
        assert term.item() == pytest.approx(mean(on_real(a - b) for a, b in pairs), rel=1e-12, abs=1e-12)
    # the terms' gradients add up to that of the loss, each with a half of its own
    halves = [torch.autograd.grad(term, [r, f], allow_unused=True) for term in terms.values()]
    expected = torch.autograd.grad(whole, [r, f])
    assert halves[0][1] is None
    assert halves[1][0] is None
    torch.testing.assert_close(halves[0][0], expected[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(halves[1][1], expected[1], rtol=1e-13, atol=0)

    generator = Relativistic(base, average=False).generator(f, r)["fake"]
    assert generator.item() == pytest.approx(mean(on_real(b - a) for a, b in pairs), rel=1e-12, abs=1e-12)
    saturating = Relativistic(base, average=False, saturating=True).generator(f, r)["fake"]
    assert saturating.item() == pytest.approx(-whole.item(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("base", BASES, ids=str)
def test_derivatives_of_the_terms_of_pairs_add_up_to_those_of_the_loss(base):
    """Of every order and by both, which a penalty on the discriminator's gradient takes; one by one or under vmap."""
    loss = Relativistic(base, average=False)
    r, f = torch.linspace(-2, 3, 8).double().view(2, 4), torch.linspace(1, -1, 8).double().view(2, 4)

    def hessian(function, r, f):
        return torch.func.jacrev(torch.func.jacrev(function, argnums=(0, 1)), argnums=(0, 1))(r, f)

    def total(r, f):
        return sum(loss.discriminator(r, f).values())

    found = torch.vmap(lambda r, f: hessian(total, r, f))(r, f)
    expected = torch.vmap(lambda r, f: hessian(lambda r, f: base.on_real(r - f).mean(), r, f))(r, f)
    for a, b in zip((t for row in found for t in row), (t for row in expected for t in row), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@given(values, values, st.floats(-50, 50), st.booleans())
def test_a_shift_of_all_logits_changes_nothing(real, fake, shift, average):
    n = min(len(real), len(fake))
    r, f = torch.tensor(real[:n], dtype=torch.float64), torch.tensor(fake[:n], dtype=torch.float64)
    loss = Relativistic(average=average)
    before, after = loss.discriminator(r, f), loss.discriminator(r + shift, f + shift)
    for name, term in before.items():
        torch.testing.assert_close(after[name], term, rtol=1e-10, atol=1e-12)


def test_bad_use():
    with pytest.raises(ValueError, match=r"Relativistic.generator\(\) needs real_logits beside fake_logits; got None"):
        Relativistic().generator(torch.zeros(3))
    with pytest.raises(ValueError, match=r"needs logits of one shape; got \(3,\) for real and \(4,\) for fake"):
        Relativistic(average=False).discriminator(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"needs logits of one shape; got \(3, 1\) for real and \(3,\) for fake"):
        Relativistic(average=False).generator(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"Relativistic has saturating= of its own; got the base Vanilla"):
        Relativistic(Vanilla(saturating=True))
    with pytest.raises(ValueError, match=r"Relativistic needs a base with one order for both players; got Alpha"):
        Relativistic(Alpha(0.5, 1.0))
