"""Training of a WGAN-GP: one loop for all methods, so that they differ in nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.studies.wgan_gp.networks import NOISE
from gradweight import MultiObjectiveGradient, Rule
from gradweight.gan import (
    Wasserstein,
    advas_penalty,
    advas_penalty_half_batches,
    gradient_penalty,
)
from gradweight.rules import AdvAs, Constant

__all__ = ["METHODS", "Method", "sample", "train"]

COEFFICIENT = 10.0
"""Of the gradient penalty, as WGAN-GP has it."""

Phi = dict[str, Tensor]
Loss = Callable[[Phi, Tensor, Tensor], Tensor]
Penalty = Callable[[Loss, Phi, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """How many steps the critic takes for each of the generator's, and how the generator assists it."""

    critic_steps: int = 1
    rule: Rule | None = None
    penalty: Penalty | None = None


def whole_batch(loss: Loss, phi: Phi, fake: Tensor, real: Tensor) -> Tensor:
    """The squared norm of the critic's gradient on one batch, which the variance of that gradient makes too large."""
    return advas_penalty(lambda p: loss(p, fake, real), phi)


METHODS = {
    "plain, 1": Method(),
    "plain, 2": Method(critic_steps=2),
    "plain, 5": Method(critic_steps=5),
    "AdvAs": Method(rule=AdvAs(), penalty=whole_batch),
    "AdvAs, lambda 0.01": Method(rule=Constant({"fake": 1.0, "advas": 0.01}), penalty=whole_batch),
    "AdvAs, half batches": Method(rule=AdvAs(), penalty=advas_penalty_half_batches),
}
"""By what the figure calls them; the number is that of the critic's steps, 1 for AdvAs."""


def train(
    nets: tuple[nn.Module, nn.Module], method: Method, data: Tensor, steps: int, batch: int, seed: int
) -> Iterator[int]:
    """Train both networks on images in bytes; yields the number of generator steps taken after each."""
    generator, critic = nets
    device, random = data.device, torch.Generator().manual_seed(seed)
    at = torch.Generator(device).manual_seed(seed)  # where the gradient penalty looks
    wasserstein = Wasserstein()
    phi = dict(critic.named_parameters())
    adam = {"lr": 1e-3, "betas": (0.5, 0.999), "fused": True}
    c_opt = torch.optim.Adam(phi.values(), **adam)
    g_opt: torch.optim.Optimizer = torch.optim.Adam(generator.parameters(), **adam)
    if method.rule is not None:
        g_opt = MultiObjectiveGradient(g_opt, method.rule)

    def critic_loss(phi: Phi, fake: Tensor, real: Tensor) -> Tensor:
        def scores(x: Tensor) -> Tensor:
            return functional_call(critic, phi, (x,))

        terms = wasserstein.discriminator(scores(real), scores(fake))
        return terms["real"] + terms["fake"] + COEFFICIENT * gradient_penalty(scores, real, fake, generator=at)

    def batches() -> tuple[Tensor, Tensor]:
        real = data[torch.randint(len(data), (batch,), generator=random).to(device)].float() / 255
        return real, torch.randn(batch, NOISE, generator=random).to(device)

    for step in range(1, steps + 1):
        for _ in range(method.critic_steps):
            real, noise = batches()
            with torch.no_grad():
                fake = generator(noise)
            c_opt.zero_grad()
            critic_loss(phi, fake, real).backward()
            c_opt.step()

        real, noise = batches()
        fake = generator(noise)
        losses = wasserstein.generator(critic(fake))
        g_opt.zero_grad()
        if isinstance(g_opt, MultiObjectiveGradient):
            assert method.penalty is not None
            g_opt.backward(losses | {"advas": method.penalty(critic_loss, phi, fake, real)})
        else:
            losses["fake"].backward(inputs=list(generator.parameters()))
        g_opt.step()
        yield step


@torch.no_grad()
def sample(generator: nn.Module, noise: Tensor) -> Tensor:
    """Images in [-1, 1], as the judge takes them."""
    return 2 * torch.cat([generator(part) for part in torch.split(noise, 500)]) - 1
