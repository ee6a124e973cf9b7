"""What AdvAs stands on: Theorem 1, Corollary 1 and appendices D.3 and D.4, on games whose best adversary is known.

Munk, Harvey, Wood, arXiv:2010.01274. In the first game the generator is a softmax over a few points and the adversary
a table of logits, so that it can be any function; in the second, a critic of bounded slope, whose best parameters lie
on the boundary.
"""

from __future__ import annotations

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from gradweight import MultiObjectiveGradient
from gradweight.gan import Vanilla, Wasserstein, advas_penalty
from gradweight.rules import AdvAs

from .games import distributions, kl

LOSS = Vanilla(saturating=True)


def adversary_loss(logits: Tensor, p_true: Tensor, p: Tensor) -> Tensor:
    """L_adv = -h with the + that Eq. 1 needs."""
    return (p_true * LOSS.on_real(logits)).sum() + (p * LOSS.on_fake(logits)).sum()


def divergence(p_true: Tensor, p: Tensor) -> Tensor:
    """M of Eq. 5: twice the Jensen-Shannon divergence, less log 4."""
    mixture = (p_true + p) / 2
    return kl(p_true, mixture) + kl(p, mixture) - math.log(4)


def best(p_true: Tensor, p: Tensor) -> Tensor:
    """An adversary constructor."""
    return (p_true / p).log()


def of(p: Tensor) -> Tensor:
    """The generator's parameters theta."""
    return p.log().requires_grad_()


def noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed))


@given(distributions(2), st.integers(0, 2**16))
def test_theorem_1(p, seed):
    """With the best adversary held fixed, h has the gradient of M; with another adversary it has not."""
    p_true, theta = p[0], of(p[1])
    (of_m,) = torch.autograd.grad(divergence(p_true, theta.softmax(0)), theta)
    phi = best(p_true, theta.softmax(0)).detach()
    h = -adversary_loss(phi, p_true, theta.softmax(0))
    torch.testing.assert_close(h, divergence(p_true, theta.softmax(0)), rtol=1e-12, atol=1e-12)
    (of_h,) = torch.autograd.grad(h, theta)
    torch.testing.assert_close(of_h, of_m, rtol=0, atol=1e-12)

    other = phi + noise(phi, seed)
    (of_other,) = torch.autograd.grad(-adversary_loss(other, p_true, theta.softmax(0)), theta)
    change = LOSS.on_fake(other) - LOSS.on_fake(phi)
    assume(change.max() - change.min() > 0.01)  # the same change everywhere has no gradient
    # p (change - its mean), with p of at least 0.0016
    assert (of_other - of_m).abs().max() > 1e-6


@given(distributions(2))
def test_corollary_1(p):
    """D_2 h at the best adversary has no part along what the best adversary does as the generator moves."""
    p_true, theta = p[0], of(p[1])
    jacobian = torch.func.jacrev(lambda t: best(p_true, t.softmax(0)))(theta.detach())
    phi = best(p_true, theta.softmax(0)).detach().requires_grad_()
    (d_2,) = torch.autograd.grad(-adversary_loss(phi, p_true, theta.softmax(0)), phi)
    torch.testing.assert_close(d_2 @ jacobian, torch.zeros_like(d_2), rtol=0, atol=1e-13)
    assert jacobian.abs().max() > 0.1


@given(st.integers(0, 2**16))
def test_corollary_1_on_a_boundary_where_the_penalty_is_not_zero(seed):
    """A linear critic of slope at most 1: the best is along the difference of the means, and h is its length.

    D_2 h is that difference, not zero, and orthogonal to how the best critic turns. So r = |D_2 h|^2 > 0 at the best
    critic, where section 4.1 says that it cannot speak of AdvAs.
    """
    real, theta = noise(torch.zeros(2, 3, dtype=torch.float64), seed)
    assume((real - theta).norm() > 0.1)

    def constructor(theta: Tensor) -> Tensor:
        return (real - theta) / (real - theta).norm()

    phi = constructor(theta)

    def h(theta: Tensor, phi: Tensor) -> Tensor:
        return real @ phi - theta @ phi

    d_1, d_2 = torch.func.grad(h, argnums=(0, 1))(theta, phi)
    torch.testing.assert_close(d_1, torch.func.grad(lambda t: (real - t).norm())(theta), rtol=0, atol=1e-14)
    jacobian = torch.func.jacrev(constructor)(theta)
    torch.testing.assert_close(d_2 @ jacobian, torch.zeros_like(d_2), rtol=0, atol=1e-14)
    assert jacobian.abs().max() > 0.01
    r = advas_penalty(lambda phi: -h(theta, phi["phi"]), {"phi": phi})
    torch.testing.assert_close(r, (real - theta).square().sum(), rtol=1e-13, atol=0)


@given(st.integers(0, 2**16))
def test_d_3(seed):
    """The WGAN's penalty and its gradient are zero where the distributions are equal, whatever the critic is."""
    torch.manual_seed(seed)
    critic = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real = torch.randn(6, 2, dtype=torch.float64)

    def penalty(fake: Tensor, loss: Wasserstein | Vanilla) -> tuple[Tensor, Tensor]:
        def adversary(phi: dict[str, Tensor]) -> Tensor:
            logits = (functional_call(critic, phi, (x,)) for x in (real, fake))
            return sum(loss.discriminator(*logits).values())

        r = advas_penalty(adversary, dict(critic.named_parameters()))
        return r.detach(), torch.autograd.grad(r, fake)[0]

    fake = real[torch.randperm(6)].requires_grad_()
    r, gradient = penalty(fake, Wasserstein())
    assert r < 1e-28
    assert gradient.abs().max() < 1e-13
    assert penalty(fake, Vanilla())[0] > 1e-6  # there, only the best adversary has nothing to gain
    assert penalty((fake + 1).detach().requires_grad_(), Wasserstein())[0] > 1e-6


def test_d_3_does_not_hold_the_other_way_round():
    """A linear critic is blind to all but the mean: r = 0, and the distributions differ."""
    real = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    fake = torch.tensor([[0.0, -2.0], [0.0, 2.0]], dtype=torch.float64)
    r = advas_penalty(
        lambda phi: sum(Wasserstein().discriminator(real @ phi["w"], fake @ phi["w"]).values()),
        {"w": torch.ones(2, dtype=torch.float64)},
    )
    assert r == 0


@given(distributions(2), st.integers(0, 2**16))
def test_d_4(p, seed):
    """With the best adversary the generator's step is that of M, penalty or not; with another it is not.

    It is the gradient of r by *theta* that is zero, 2 (grad_phi L) . (grad_theta grad_phi L) by Eq. 35, and the step is
    one of theta: section 4.1 and Algorithm 1 print nabla_phi in its place.
    """
    p_true, theta = p[0], of(p[1])
    (of_m,) = torch.autograd.grad(divergence(p_true, theta.softmax(0)), theta)
    opt = MultiObjectiveGradient(torch.optim.SGD([theta], lr=0.1), AdvAs())

    def direction(phi: Tensor) -> tuple[Tensor, Tensor]:
        opt.zero_grad()
        r = advas_penalty(lambda phi: adversary_loss(phi["s"], p_true, theta.softmax(0)), {"s": phi})
        # L_gen without its constant, the term of the real samples
        opt.backward({"fake": -(theta.softmax(0) * LOSS.on_fake(phi)).sum(), "advas": r})
        return theta.grad.clone(), r.detach()

    phi = best(p_true, theta.softmax(0)).detach()
    found, r = direction(phi)
    assert r < 1e-28
    torch.testing.assert_close(found, of_m, rtol=0, atol=1e-12)

    step, r = direction(phi + 0.3 * noise(phi, seed))
    assume(r > 1e-6)
    assert (step - of_m).abs().max() > 1e-7


# ---- what the paper prints otherwise


def test_with_the_sign_of_eq_1_there_is_no_best_adversary():
    """Minus E log(1 - a), as printed, rises in every logit without end; with a plus there is a best one."""
    p_true, p = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)
    for height in (-5.0, 0.0, 5.0):
        phi = torch.full((3,), height, dtype=torch.float64, requires_grad=True)
        a = phi.sigmoid()
        (printed,) = torch.autograd.grad((p_true * a.log()).sum() - (p * (1 - a).log()).sum(), phi)
        assert (printed > 0).all()
    phi = best(p_true, p).requires_grad_()
    a = phi.sigmoid()
    (meant,) = torch.autograd.grad((p_true * a.log()).sum() + (p * (1 - a).log()).sum(), phi)
    torch.testing.assert_close(meant, torch.zeros_like(meant), rtol=0, atol=1e-15)
