"""Training of the image studies: one loop for all methods, so that they differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.studies.images.datasets import to_unit
from benchmarks.studies.images.models import NOISE, Setting
from gradweight import MultiObjectiveGradient
from gradweight.gan import advas_penalty, probability_scores
from gradweight.rules import AdaptiveWeights, AdvAs

# the rule of the discriminator's two losses, if any, and whether the generator has the penalty
METHODS: dict[str, tuple[AdaptiveWeights | None, bool]] = {
    "plain": (None, False),
    "aw": (AdaptiveWeights(), False),
    "AdvAs": (None, True),
    "both": (AdaptiveWeights(), True),
    "aw-2": (AdaptiveWeights(normalized=False), False),
    "aw-relative": (AdaptiveWeights(epsilon_mode="relative"), False),
}
DEFAULT = ["plain", "aw", "AdvAs", "both"]
"""The methods of the kept results; the others are Algorithm 2, and Algorithm 1 with the relative epsilon."""


def train(
    nets: tuple[nn.Module, nn.Module],
    setting: Setting,
    method: tuple[AdaptiveWeights | None, bool],
    data: Tensor,
    steps: int,
    batch: int,
    seed: int,
) -> Iterator[int]:
    """Train both networks; yields the number of generator steps taken after each."""
    generator, discriminator = nets
    rule, assisted = method
    device, random = data.device, torch.Generator().manual_seed(seed)
    phi = dict(discriminator.named_parameters())
    fused = {"lr": setting.rate, "betas": setting.betas, "fused": True}
    d_opt: torch.optim.Optimizer = torch.optim.Adam(phi.values(), **fused)
    g_opt: torch.optim.Optimizer = torch.optim.Adam(generator.parameters(), **fused)
    schedules = []
    if setting.decays:
        schedules = [LinearLR(opt, 1.0, 0.0, setting.decays) for opt in (d_opt, g_opt)]
    if rule is not None:
        d_opt = MultiObjectiveGradient(d_opt, rule)
    if assisted:
        g_opt = MultiObjectiveGradient(g_opt, AdvAs())

    def noise(n: int) -> Tensor:
        return torch.randn(n, NOISE, generator=random).to(device, non_blocking=True)

    for step in range(1, steps + 1):
        for _ in range(setting.discriminator_steps):
            real = to_unit(data[torch.randint(len(data), (batch,), generator=random).to(device)])
            with torch.no_grad():
                fake = generator(noise(batch))
            d_opt.zero_grad()
            logits = discriminator(real), discriminator(fake)
            losses = setting.loss.discriminator(*logits)
            if isinstance(d_opt, MultiObjectiveGradient):
                d_opt.backward(losses, **probability_scores(*logits))
            else:
                sum(losses.values(), torch.zeros((), device=device)).backward()
            d_opt.step()

        g_opt.zero_grad()
        fake_logits = discriminator(generator(noise(setting.generator_batch or batch)))
        losses = setting.loss.generator(fake_logits)
        if isinstance(g_opt, MultiObjectiveGradient):
            inside = setting.inside_advas.discriminator(discriminator(real), fake_logits)
            g_opt.backward(losses | {"advas": advas_penalty(inside, phi)})
        else:
            sum(losses.values(), torch.zeros((), device=device)).backward(inputs=list(generator.parameters()))
        g_opt.step()
        for schedule in schedules:
            schedule.step()
        yield step


def average_of(generator: nn.Module, decay: float) -> AveragedModel:
    """A moving average of the weights, for `sample`; ``update_parameters`` after each step takes the new ones in.

    The running statistics of batch norm are averaged with them.
    """
    return AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@torch.no_grad()
def sample(generator: nn.Module, noise: Tensor) -> Tensor:
    """Images in [-1, 1], by the running statistics of batch norm."""
    generator.eval()
    images = torch.cat([generator(part) for part in torch.split(noise, 500)])
    generator.train()
    return images


def to_bytes(images: Tensor) -> np.ndarray:
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
