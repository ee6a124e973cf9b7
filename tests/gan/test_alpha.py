"""The alpha family against two hundred digits, its closed forms, and the papers' probability form."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradweight.gan import Alpha, Vanilla, alpha_loss

orders = st.sampled_from([0.2, 0.5, 0.9, 1 - 1e-9, 1.0, 1 + 1e-9, 1.2, 2.0, 5.0, 1e9, math.inf])


logits = st.one_of(
    st.floats(-100, 100), st.floats(-1e4, 1e4), st.sampled_from([0.0, -0.0, 17.0, -17.0, 21.0, -21.0, 1e4, -1e4])
)


def exact(s, alpha):
    """l(1, s) and its first three derivatives, in two hundred digits; and how large the terms of each are."""
    with mpmath.workdps(200):
        # as the order is rounded, so are its uses
        b = mpmath.mpf(1) if alpha == math.inf else 1 - 1 / mpmath.mpf(alpha)
        rest = 1 / (1 + mpmath.exp(mpmath.mpf(s)))  # 1 - D, which keeps its digits where D is near 1
        d = 1 / (1 + mpmath.exp(-mpmath.mpf(s)))
        log_d = -mpmath.log1p(mpmath.exp(-mpmath.mpf(s)))
        value = -log_d if b == 0 else -mpmath.expm1(b * log_d) / b
        slope = rest * d**b
        terms = [[value], [-slope], [slope * d, -slope * b * rest]]
        terms.append([slope * (3 * b + 1) * d * rest, -slope * d**2, -slope * (b * rest) ** 2])
        return [float(sum(some)) for some in terms], [float(sum(map(abs, some))) for some in terms]


def assert_exact(found, s, alpha, order):
    """``found`` is the derivative of this order, 0 to 3."""
    values, sizes = exact(s, alpha)
    if math.isfinite(sizes[order]):
        # exp(b s) with |b s| up to 700 turns the last bit of the exponent into 700 of them, the terms of the higher
        # derivatives may cancel, and below 1e-307 there are fewer bits
        expected = pytest.approx(values[order], rel=1e-12, abs=max(1e-13 * sizes[order], 1e-307))
        assert found.item() == expected
    else:
        assert not found.isfinite()


def forward(function):
    """Its derivative by forward mode."""
    return lambda x: torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


@given(logits, orders)
def test_value_and_derivatives(s, alpha):
    x = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    found = alpha_loss(x, alpha)
    assert_exact(found, s, alpha, 0)
    for order in (1, 2, 3):
        (found,) = torch.autograd.grad(found, x, create_graph=True)
        assert_exact(found, s, alpha, order)


@given(logits, orders, st.lists(st.sampled_from([forward, torch.func.grad]), min_size=3, max_size=3))
def test_derivatives_by_both_modes_in_any_order(s, alpha, modes):
    x, function = torch.tensor(s, dtype=torch.float64), lambda x: alpha_loss(x, alpha)
    for order, mode in enumerate(modes, 1):
        function = mode(function)
        assert_exact(function(x), s, alpha, order)


@given(st.lists(logits, min_size=1, max_size=4), orders)
def test_hessians_of_a_batch(values, alpha):
    x = torch.tensor(values, dtype=torch.float64)
    # of each logit by itself: a sum's derivatives would be those of the one that leaves the range
    hessian = torch.vmap(torch.func.hessian(lambda x: alpha_loss(x, alpha)))(x)
    for found, s in zip(hessian, values, strict=True):
        assert_exact(found, s, alpha, 2)


@given(st.floats(-20, 20), orders)
def test_derivatives_against_finite_differences(s, alpha):
    # steps of 1e-4 cost 1e-8 of the third derivative, rounding 1e-12 of the value
    function, step = lambda x: alpha_loss(x, alpha), 1e-4
    for mode in (forward, torch.func.grad, forward):
        slope = mode(function)
        ahead, behind = (function(torch.tensor(s + sign * step, dtype=torch.float64)).item() for sign in (1, -1))
        size = max(abs(ahead), abs(behind))
        difference = (ahead - behind) / (2 * step)
        # a derivative's own derivative is at most 5 times it and the next: b >= -4
        assert slope(torch.tensor(s, dtype=torch.float64)).item() == pytest.approx(
            difference, rel=1e-6, abs=1e-6 * size
        )
        function = slope


@pytest.mark.parametrize("s", [-60.0, -30.0, -18.0, 18.0, 30.0, 60.0])
@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.2, 2.0, math.inf])
def test_in_single_precision_tiny_derivatives_keep_their_digits(s, alpha):
    function = lambda x: alpha_loss(x, alpha)  # noqa: E731
    for mode, expected in zip((torch.func.grad, forward, torch.func.grad), exact(s, alpha)[0][1:], strict=True):
        function = mode(function)
        if abs(expected) > 1e-37:
            assert function(torch.tensor(s)).item() == pytest.approx(expected, rel=1e-4)


@given(st.floats(-20, 20))
def test_closed_forms(s):
    x = torch.tensor(s, dtype=torch.float64)
    assert alpha_loss(x, 0.5).item() == pytest.approx(math.exp(-s), rel=1e-13)
    assert alpha_loss(x, 1.0).item() == pytest.approx(math.log1p(math.exp(-s)), rel=1e-13)
    assert alpha_loss(x, math.inf).item() == pytest.approx(1 / (1 + math.exp(s)), rel=1e-13)
    for near in (1 - 1e-10, 1 + 1e-10):
        # the difference to alpha = 1 is of the size of |alpha - 1| l^2 / 2
        assert alpha_loss(x, near).item() == pytest.approx(alpha_loss(x, 1.0).item(), rel=3e-9)
    assert alpha_loss(x, 1e12).item() == pytest.approx(alpha_loss(x, math.inf).item(), rel=1e-9)


@given(st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([0.3, 0.5, 0.9, 1.2, 3.0]), st.booleans())
def test_probability_form_of_the_papers(real, fake, alpha, saturating):
    def l_alpha(y, d):
        b = (alpha - 1) / alpha
        return (1 - (d if y else 1 - d) ** b) / b

    d_real, d_fake = 1 / (1 + math.exp(-real)), 1 / (1 + math.exp(-fake))
    loss = Alpha(alpha, alpha, saturating)
    terms = loss.discriminator(torch.tensor([real], dtype=torch.float64), torch.tensor([fake], dtype=torch.float64))
    # the probability form loses digits where D is near 1
    assert terms["real"].item() == pytest.approx(l_alpha(1, d_real), rel=1e-9, abs=1e-12)
    assert terms["fake"].item() == pytest.approx(l_alpha(0, d_fake), rel=1e-9, abs=1e-12)
    generator = loss.generator(torch.tensor([fake], dtype=torch.float64))["fake"].item()
    assert generator == pytest.approx(-l_alpha(0, d_fake) if saturating else l_alpha(1, d_fake), rel=1e-9, abs=1e-12)


def test_each_player_has_its_own_order():
    s = torch.randn(50).double()
    loss = Alpha(0.5, math.inf)
    torch.testing.assert_close(loss.discriminator(s, s)["real"], (-s).exp().mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(loss.discriminator(s, s)["fake"], s.exp().mean(), rtol=1e-13, atol=0)
    torch.testing.assert_close(loss.generator(s)["fake"], (-s).sigmoid().mean(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("saturating", [False, True])
def test_one_and_one_is_vanilla(saturating):
    s = torch.randn(50).double()
    assert Alpha(saturating=saturating).discriminator(s, -s) == Vanilla().discriminator(s, -s)
    assert Alpha(saturating=saturating).generator(s) == Vanilla(saturating).generator(s)


@pytest.mark.parametrize("saturating", [False, True])
def test_clamp_is_the_published_clamp_of_the_probability(saturating):
    s = torch.linspace(-25, 25, 101).double().requires_grad_()
    loss = Alpha(0.5, 0.5, saturating, clamp=1e-7)

    d = s.sigmoid().clamp(1e-7, 1 - 1e-7)
    published = {"real": (1 / d - 1).mean(), "fake": (1 / (1 - d) - 1).mean()}
    terms = loss.discriminator(s, s)
    for name, expected in published.items():
        # 1 - D keeps 9 digits where D = 1 - 1e-7, and so does what is made of it
        torch.testing.assert_close(terms[name], expected, rtol=1e-8, atol=0)
        ours, theirs = (torch.autograd.grad(x, s, retain_graph=True)[0] for x in (terms[name], expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-15)
        assert not ours[s.abs() > 16.2].any()
        assert ours[s.abs() < 16.1].all()
    expected = -published["fake"] if saturating else published["real"]
    torch.testing.assert_close(loss.generator(s)["fake"], expected, rtol=1e-8, atol=0)


def test_without_a_clamp_the_gradient_grows_without_bound():
    s = torch.tensor([-16.0, -50.0, -80.0], requires_grad=True)  # in float32
    (gradient,) = torch.autograd.grad(alpha_loss(s, 0.5).sum(), s)
    torch.testing.assert_close(gradient, -(-s.detach()).exp(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_orders_that_are_none(alpha):
    for field in ("alpha_d", "alpha_g"):
        with pytest.raises(ValueError, match=rf"Alpha needs {field} in \(0, inf\]; got {alpha}"):
            Alpha(**{field: alpha})
    with pytest.raises(ValueError, match=rf"alpha_loss needs alpha in \(0, inf\]; got {alpha}"):
        alpha_loss(torch.zeros(1), alpha)


@pytest.mark.parametrize("clamp", [0.0, 0.5, -1e-7, math.nan])
def test_clamps_that_are_none(clamp):
    with pytest.raises(ValueError, match=r"Alpha needs clamp in \(0, 1/2\).*; got"):
        Alpha(clamp=clamp)
