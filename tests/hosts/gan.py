"""A tiny GAN of two losses for each network, and its training written out by hand, on the batches of the problem."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .problem import LEARNING_RATE, batches, bisector


def gan() -> tuple[nn.Module, nn.Module]:
    """A generator 3 -> 2 and a discriminator 2 -> 1."""
    torch.manual_seed(2)
    return (
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)),
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)),
    )


def discriminator_losses(discriminator: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    softplus = nn.functional.softplus
    return {
        "real": softplus(-discriminator(real)).mean(),
        "fake": softplus(discriminator(fake.detach())).mean(),
    }


def generator_losses(discriminator: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    return {
        "fool": nn.functional.softplus(-discriminator(fake)).mean(),
        "mean": 10 * (fake.mean(0) - real.mean(0)).square().sum(),
    }


def gan_by_hand() -> dict[str, Tensor]:
    """Both networks after training, discriminator first on each batch."""
    generator, discriminator = gan()
    optimizers = {net: torch.optim.Adam(net.parameters(), lr=LEARNING_RATE) for net in (generator, discriminator)}
    for z, real in batches():
        for net, its_losses in ((discriminator, discriminator_losses), (generator, generator_losses)):
            params = list(net.parameters())
            values = its_losses(discriminator, real, generator(z))
            rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in values.values()]
            for p, g in zip(params, bisector(rows), strict=True):
                p.grad = g
            optimizers[net].step()
    return state_of_gan(generator, discriminator)


def state_of_gan(generator: nn.Module, discriminator: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(nn.ModuleDict({"generator": generator, "discriminator": discriminator}).state_dict())
