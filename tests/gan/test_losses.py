"""The losses against torch's own, their definitions, and each other; and in the hands of an optimizer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient
from gradweight.gan import (
    Alpha,
    Hinge,
    LeastSquares,
    Relativistic,
    Vanilla,
    Wasserstein,
    probability_scores,
)
from gradweight.rules import AdaptiveWeights, Sum

logits = st.lists(st.floats(-30, 30), min_size=1, max_size=20).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)

LOSSES = [
    Vanilla(),
    Vanilla(saturating=True),
    Hinge(),
    Hinge(truncated=False),
    LeastSquares(),
    LeastSquares(1.0, -1.0),
    Wasserstein(),
    Alpha(0.5, 1.2),
    Alpha(0.5, 1.0, saturating=True, clamp=1e-7),
    Relativistic(),
    Relativistic(Hinge(), saturating=True),
    Relativistic(average=False),
]


@given(logits, logits)
def test_vanilla_is_binary_cross_entropy(real, fake):
    bce = F.binary_cross_entropy_with_logits  # computes s - log sigmoid(s), which cancels: hence atol
    terms = Vanilla().discriminator(real, fake)
    torch.testing.assert_close(terms["real"], bce(real, torch.ones_like(real)), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(terms["fake"], bce(fake, torch.zeros_like(fake)), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        Vanilla().generator(fake)["fake"], bce(fake, torch.ones_like(fake)), rtol=1e-13, atol=1e-14
    )
    torch.testing.assert_close(Vanilla(saturating=True).generator(fake)["fake"], -terms["fake"], rtol=0, atol=0)


@given(logits, logits)
def test_definitions_one_logit_after_the_other(real, fake):
    def mean(f, values):
        return pytest.approx(math.fsum(f(s) for s in values.tolist()) / len(values), rel=1e-13, abs=1e-13)

    expected = {
        Hinge(): (lambda s: max(0, 1 - s), lambda s: max(0, 1 + s), lambda s: -s),
        Hinge(truncated=False): (lambda s: 1 - s, lambda s: 1 + s, lambda s: -s),
        LeastSquares(): (lambda s: (s - 1) ** 2 / 2, lambda s: s**2 / 2, lambda s: (s - 1) ** 2 / 2),
        LeastSquares(2.0, -1.0): (lambda s: (s - 2) ** 2 / 2, lambda s: (s + 1) ** 2 / 2, lambda s: (s - 2) ** 2 / 2),
        Wasserstein(): (lambda s: -s, lambda s: s, lambda s: -s),
    }
    for loss, (on_real, on_fake, generator) in expected.items():
        terms = loss.discriminator(real, fake)
        assert terms["real"].item() == mean(on_real, real)
        assert terms["fake"].item() == mean(on_fake, fake)
        assert loss.generator(fake)["fake"].item() == mean(generator, fake)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_terms_of_both_players_are_named_scalars_that_have_a_gradient(loss):
    real, fake = (torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    terms = loss.discriminator(real, fake)
    assert list(terms) == ["real", "fake"]
    assert "fake" in loss.generator(fake, real)
    for term in [*terms.values(), *loss.generator(fake, real).values()]:
        assert term.shape == ()
        assert torch.autograd.grad(term, [real, fake], allow_unused=True, retain_graph=True) != (None, None)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_step_of_either_player_lowers_its_own_loss(loss):
    # nothing but the sign: the discriminator raises s(x) over s(G(z)), the generator raises s(G(z))
    real, fake = (torch.linspace(-0.4, 0.5, 7, dtype=torch.float64).requires_grad_() for _ in range(2))
    up, down = torch.autograd.grad(sum(loss.discriminator(real, fake).values()), [real, fake])
    assert up.sum() < 0 < down.sum()
    fake = fake.detach() + 1.5  # where least squares from below its target would be as good
    if not isinstance(loss, LeastSquares):
        (generator,) = torch.autograd.grad(sum(loss.generator(fake.requires_grad_(), real.detach()).values()), fake)
        assert (generator <= 0).all()
        assert (generator < 0).any()


@pytest.mark.parametrize("loss", [Vanilla(), Vanilla(saturating=True), Hinge(), LeastSquares(), Wasserstein()], ids=str)
@pytest.mark.parametrize("s", [-100.0, 100.0])
def test_extreme_logits_are_finite_and_have_the_right_derivative(loss, s):
    at = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    small = math.exp(-100)
    # by s, at -100 and at 100
    derivatives = {
        "Vanilla": ((-1.0, small), (-small, 1.0)),
        "Hinge": ((-1.0, 0.0), (0.0, 1.0)),
        "LeastSquares": ((-101.0, -100.0), (99.0, 100.0)),
        "Wasserstein": ((-1.0, 1.0), (-1.0, 1.0)),
    }[type(loss).__name__][s > 0]
    for term, derivative in zip(loss.discriminator(at, at).values(), derivatives, strict=True):
        assert torch.isfinite(term)
        (found,) = torch.autograd.grad(term, at, retain_graph=True)
        assert found.item() == pytest.approx(derivative, rel=1e-13, abs=0)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_one_concatenated_forward_gives_the_direction_of_two(loss):
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), 0.1), AdaptiveWeights())
    real, fake = torch.randn(6, 2).double(), torch.randn(6, 2).double() + 1
    directions = []
    for logits in ((net(real), net(fake)), net(torch.cat([real, fake])).split([6, 6])):
        opt.zero_grad()
        opt.backward(loss.discriminator(*logits), **probability_scores(*logits))
        directions.append(torch.cat([p.grad.flatten().clone() for p in net.parameters()]))
    torch.testing.assert_close(*directions, rtol=1e-12, atol=1e-15)
    assert directions[0].any()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_terms_add_up_to_the_plain_step(loss):
    net = nn.Linear(2, 1).double()
    real, fake = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    seen = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), 0.1), Sum()).backward(
        loss.discriminator(net(real), net(fake))
    )
    plain = torch.autograd.grad(sum(loss.discriminator(net(real), net(fake)).values()), list(net.parameters()))
    for p, g in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-15)
    assert seen.names == ("real", "fake")


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_logits_in_half_precision(loss):
    # exp(12), which alpha = 1/2 takes, and the square of 300 are beyond the range of float16
    real, fake = torch.linspace(-12, 12, 8), torch.linspace(300, -300, 8)
    if isinstance(loss, Alpha) and loss.clamp is None:
        fake = fake / 25  # where the loss itself stays within float16
    found, expected = (
        (*loss.discriminator(r, f).values(), *loss.generator(f, r).values())
        for r, f in ((real.half(), fake.half()), (real.half().float(), fake.half().float()))
    )
    for term, exact in zip(found, expected, strict=True):
        assert term.item() == pytest.approx(exact.item(), rel=1e-2, abs=1e-3)  # the bound of a clamp has 11 bits too


def test_least_squares_needs_two_targets():
    with pytest.raises(ValueError, match=r"LeastSquares needs two different targets; got 1.0 for real and fake"):
        LeastSquares(1.0, 1.0)
