"""A small adversary, with layers whose third derivatives torch has right or wrong, and its loss."""

import torch
from torch import nn
from torch.func import functional_call

from gradweight.gan import Wasserstein, gradient_penalty, r1_penalty

CHANNELS, LENGTH = 4, 5


def adversary(norm):
    return nn.Sequential(
        nn.Conv1d(2, CHANNELS, 3, padding=1), norm, nn.Softplus(), nn.Flatten(), nn.Linear(CHANNELS * LENGTH, 1)
    ).double()


def samples(n=3):
    return torch.randn(n, 2, LENGTH, dtype=torch.float64)


def penalised(net, real, loss=None, penalty=None):
    """The adversary's loss as a function of the fake samples and phi."""
    loss = loss or Wasserstein()

    def adversary_loss(fake, phi):
        def critic(x):
            return functional_call(net, phi, (x,))

        total = sum(loss.discriminator(critic(real), critic(fake)).values())
        if penalty == "gradient_penalty":
            total = total + 10 * gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))
        if penalty == "r1_penalty":
            x = real.detach().requires_grad_()
            total = total + 5 * r1_penalty(critic(x), x)
        return total

    return adversary_loss


def ratio_to_finite_differences(r, fake):
    """The derivative of r by the fake samples along some direction, over what central differences give."""
    direction, step = torch.randn_like(fake), 1e-5
    x = fake.detach().requires_grad_()
    analytic = (torch.autograd.grad(r(x), x)[0] * direction).sum()
    ahead, behind = (r((fake + sign * step * direction).detach().requires_grad_()).detach() for sign in (1, -1))
    return (analytic / ((ahead - behind) / (2 * step))).item()


WRONG = [
    nn.InstanceNorm1d(CHANNELS),
    nn.InstanceNorm1d(CHANNELS, affine=True),
    nn.LayerNorm([CHANNELS, LENGTH]),
    nn.BatchNorm1d(CHANNELS),
    nn.BatchNorm1d(CHANNELS, track_running_stats=False).eval(),
]
RIGHT = [
    nn.Identity(),
    nn.GroupNorm(CHANNELS, CHANNELS),
    nn.GroupNorm(1, CHANNELS),
    nn.RMSNorm([CHANNELS, LENGTH]),
    nn.BatchNorm1d(CHANNELS).eval(),
    nn.InstanceNorm1d(CHANNELS, track_running_stats=True).eval(),
]
