"""Gradient penalties against the closed forms of linear and quadratic critics, and finite differences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.gan import Wasserstein, gradient_penalty, r1_penalty, r2_penalty
from gradweight.rules import Sum

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 5), st.floats(0.1, 10))
def test_a_linear_critic(seed, n, length):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(2, 3, dtype=torch.float64, generator=random)
    w = (length * w / w.norm()).requires_grad_()
    real, fake = (torch.randn(n, 2, 3, dtype=torch.float64, generator=random) for _ in range(2))

    penalty = gradient_penalty(lambda x: (x * w).sum((1, 2)), real, fake)
    assert penalty.item() == pytest.approx((length - 1) ** 2, rel=1e-10, abs=1e-14)
    (by_w,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(by_w, 2 * (length - 1) * w.detach() / length, rtol=1e-10, atol=1e-14)

    for r, samples in ((r1_penalty, real), (r2_penalty, fake)):
        samples.requires_grad_()
        penalty = r((samples * w).sum((1, 2)), samples)
        assert penalty.item() == pytest.approx(length**2 / 2, rel=1e-12)
        torch.testing.assert_close(torch.autograd.grad(penalty, w)[0], w.detach(), rtol=1e-12, atol=0)


@given(seeds)
def test_a_quadratic_critic_shows_where_the_gradient_is_taken(seed):
    # s(x) = |x|^2 / 2 has the gradient x
    random = torch.Generator().manual_seed(seed)
    real, fake = (torch.randn(6, 4, dtype=torch.float64, generator=random) for _ in range(2))
    penalty = gradient_penalty(
        lambda x: x.square().sum(1) / 2, real, fake, generator=torch.Generator().manual_seed(seed)
    )
    u = torch.rand(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = ((u * real + (1 - u) * fake).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)
    x = real.requires_grad_()
    torch.testing.assert_close(r1_penalty(x.square().sum(1) / 2, x), x.square().sum(1).mean() / 2, rtol=1e-12, atol=0)


def test_derivatives_by_parameters_and_samples():
    net = nn.Sequential(nn.Linear(3, 5), nn.Softplus(), nn.Linear(5, 2)).double()
    real, fake = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w = net[0].weight.detach().requires_grad_()

    def penalty(real, fake, w):
        def critic(x):
            return torch.func.functional_call(net, {"0.weight": w}, (x,))

        return gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(penalty, (real, fake, w))
    assert torch.autograd.gradcheck(lambda x, w: r1_penalty(_through(net, w, x), x), (real, w))


def _through(net, w, x):
    return torch.func.functional_call(net, {"0.weight": w}, (x,))


def test_a_critic_that_is_flat_gets_no_nan():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ w, torch.randn(4, 3).double(), torch.randn(4, 3).double())
    assert penalty == 1
    assert not torch.autograd.grad(penalty, w)[0].any()


def test_a_penalty_is_one_more_term():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real, fake = torch.randn(4, 3).double().requires_grad_(), torch.randn(4, 3).double()

    def terms():
        real_logits, fake_logits = net(torch.cat([real, fake])).split([4, 4])
        return Wasserstein().discriminator(real_logits, fake_logits) | {"r1": 5 * r1_penalty(real_logits, real)}

    seen = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), 0.1), Sum()).backward(terms())
    assert seen.names == ("real", "fake", "r1")
    plain = torch.autograd.grad(sum(terms().values()), [*net.parameters()][:-1])
    for p, g in zip(net.parameters(), plain, strict=False):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-15)


def test_bad_use():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"gradient_penalty needs .* of one shape; got \(4, 3\) and \(5, 3\)"):
        gradient_penalty(lambda x: x.sum(1), x, torch.randn(5, 3))
    with pytest.raises(ValueError, match="gradient_penalty needs a critic whose logits depend on its samples"):
        gradient_penalty(lambda x: torch.zeros(4, requires_grad=True) * 1, x, x)
    with pytest.raises(ValueError, match=r"r1_penalty needs real samples that require a gradient; call requires_grad_"):
        r1_penalty(x.sum(1), x)
    with pytest.raises(ValueError, match=r"r2_penalty needs fake samples that require a gradient; call requires_grad_"):
        r2_penalty(x.sum(1), x)
    x.requires_grad_()
    with pytest.raises(ValueError, match="r1_penalty needs logits with a graph; got a tensor without one"):
        r1_penalty(x.detach().sum(1), x)
    with pytest.raises(ValueError, match="r2_penalty needs logits that depend on the fake samples"):
        r2_penalty(x.clone().sum(1), torch.randn(4, 3, requires_grad=True))


def test_half_precision_gradients_are_squared_in_single():
    """A norm of 500 has a square beyond the range of half precision."""
    w = torch.tensor([300.0, 400.0], dtype=torch.float16)
    x = torch.linspace(-1, 1, 8, dtype=torch.float16).view(4, 2).requires_grad_()
    assert r1_penalty(x @ w, x) == 125000
    assert gradient_penalty(lambda x: x @ w, x.detach(), -x.detach()) == 499**2
