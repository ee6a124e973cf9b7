"""The derivative of the AdvAs penalty by the fake samples against finite differences, through layers of every kind."""

import math
import re

import pytest
import torch
from torch import nn
from torch.func import functional_call

from gradweight.gan import (
    Alpha,
    Hinge,
    Relativistic,
    Vanilla,
    Wasserstein,
    advas_penalty,
    advas_penalty_half_batches,
    advas_penalty_unbiased,
    r1_penalty,
)

from .adversary import CHANNELS, LENGTH, RIGHT, WRONG, adversary, penalised, ratio_to_finite_differences, samples

LOSSES = (
    Wasserstein(),
    Vanilla(),
    Alpha(0.5, 1.0),
    Relativistic(),
    Relativistic(average=False),
    Hinge(truncated=False),
)
"""The second derivative of an adversary's loss is right with every layer, the third, of a penalty, with some."""
SECOND = [(norm, {"loss": loss}) for norm in WRONG + RIGHT for loss in LOSSES]
THIRD = [(norm, {"penalty": "gradient_penalty"}) for norm in RIGHT]


@pytest.mark.parametrize(("norm", "adversary_loss_of"), SECOND + THIRD, ids=str)
def test_derivatives(norm, adversary_loss_of):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, **adversary_loss_of)
    phi = dict(net.named_parameters())
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


@pytest.mark.parametrize("norm", WRONG, ids=str)
def test_third_derivatives_that_torch_gets_wrong_are_refused(norm):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, penalty="gradient_penalty")
    phi = dict(net.named_parameters())
    remedy = r"GroupNorm\(1, C\)" if isinstance(norm, nn.LayerNorm) else r"GroupNorm\(C, C\)"
    with pytest.raises(NotImplementedError, match=rf"here in \['1: {re.escape(str(norm))}'\].*{remedy}"):
        advas_penalty(lambda p: adversary_loss(fake, p), phi)
    with pytest.raises(NotImplementedError, match=rf"here in \['1: {re.escape(str(norm))}'\].*{remedy}"):
        advas_penalty_half_batches(lambda p, f, r: penalised(net, r, penalty="gradient_penalty")(f, p), phi, fake, fake)
    # the day that this fails, torch is right and the check can go
    assert (
        abs(ratio_or_infinity(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi, check=False), fake) - 1)
        > 0.01
    )


def ratio_or_infinity(function, x):
    """`ratio_to_finite_differences`; infinity where torch refuses such a derivative itself, as from 2.14 on."""
    try:
        return ratio_to_finite_differences(function, x)
    except RuntimeError as error:
        if "does not support 3rd+ order derivatives" not in str(error):
            raise
        return math.inf


def test_refused_at_a_func_level_too():
    net, fake = adversary(nn.InstanceNorm1d(CHANNELS)), samples()

    def adversary_loss(phi):
        def critic(x):
            return functional_call(net, phi, (x,))

        return critic(fake).mean() + torch.func.grad(lambda x: critic(x).sum())(fake).square().mean()

    with pytest.raises(NotImplementedError, match="here in \\['1: InstanceNorm1d"):
        advas_penalty(adversary_loss, dict(net.named_parameters()), engine="func")
    with pytest.raises(NotImplementedError, match="here in \\['1: InstanceNorm1d"):
        advas_penalty_unbiased(
            lambda phi, f, r: torch.func.grad(lambda x: functional_call(net, phi, (x[None],)).sum())(f).square().sum(),
            dict(net.named_parameters()),
            fake,
            fake,
        )


def test_a_functional_layer_is_refused_without_a_name():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def adversary_loss(phi):
        out = nn.functional.layer_norm(x @ phi["w"], (4,)).sigmoid().sum()
        return torch.autograd.grad(out, x, create_graph=True)[0].square().sum()

    with pytest.raises(NotImplementedError, match=r"gradient penalty through LayerNorm\. The penalty's place"):
        advas_penalty(adversary_loss, {"w": torch.eye(4).double()})


@pytest.mark.parametrize("norm", WRONG, ids=str)
def test_r1_on_real_samples_is_right_in_a_generator_step(norm):
    net, real, fake = adversary(norm), samples(), samples()
    adversary_loss = penalised(net, real, penalty="r1_penalty")
    phi = dict(net.named_parameters())
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi, check=False), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5


class _Kernel(torch.autograd.Function):
    """Softplus's derivative as hand-written kernels have it: differentiable once, and then no more."""

    @staticmethod
    def forward(ctx, gradient, x):
        ctx.save_for_backward(gradient, x)
        return gradient * x.sigmoid()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, cotangent):
        gradient, x = ctx.saved_tensors
        return cotangent * x.sigmoid(), cotangent * gradient * x.sigmoid() * (-x).sigmoid()


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return nn.functional.softplus(x)

    @staticmethod
    def backward(ctx, gradient):
        return _Kernel.apply(gradient, *ctx.saved_tensors)


class Fused(nn.Module):
    def forward(self, x):
        return _Softplus.apply(x)


def test_r1_takes_no_third_derivative_in_a_generator_step():
    net, real, fake = adversary(nn.Identity()), samples(), samples()
    net[2] = Fused()
    phi = dict(net.named_parameters())
    adversary_loss = penalised(net, real, Vanilla(), penalty="r1_penalty")
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi), fake)
    assert ratio == pytest.approx(1, abs=1e-6)  # central differences of step 1e-5
    adversary_loss = penalised(net, real, Vanilla(), penalty="gradient_penalty")
    # of which WGAN-GP's, which depends on the fake samples, does need the third, and misses it without an error
    ratio = ratio_to_finite_differences(lambda x: advas_penalty(lambda p: adversary_loss(x, p), phi), fake)
    assert abs(ratio - 1) > 0.01


def test_r_is_zero_at_the_optimum_of_all_that_the_adversary_is_trained_on():
    """The critic phi.x with R1 of weight 5 |phi|^2 / 2 has its optimum at (mean real - mean fake) / 5."""
    real, fake = torch.randn(4, 3).double() + 2, torch.randn(4, 3).double().requires_grad_()
    phi = {"w": (real.mean(0) - fake.mean(0)).detach() / 5}

    def r(weight):
        def adversary_loss(p):
            x = real.clone().requires_grad_()
            terms = Wasserstein().discriminator(x @ p["w"], fake @ p["w"])
            return sum(terms.values()) + weight * r1_penalty(x @ p["w"], x)

        return advas_penalty(adversary_loss, phi)

    assert r(5).item() < 1e-28
    assert torch.autograd.grad(r(5), fake)[0].abs().max() < 1e-14
    assert r(0) > 1


def test_the_remedies_are_the_layers_that_they_replace():
    x = torch.randn(3, CHANNELS, LENGTH, dtype=torch.float64)
    same = nn.GroupNorm(CHANNELS, CHANNELS).double()(x)
    torch.testing.assert_close(nn.InstanceNorm1d(CHANNELS).double()(x), same, rtol=1e-12, atol=1e-14)
    same = nn.GroupNorm(1, CHANNELS).double()(x)
    torch.testing.assert_close(nn.LayerNorm([CHANNELS, LENGTH]).double()(x), same, rtol=1e-12, atol=1e-14)
