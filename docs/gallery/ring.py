"""A GAN on a ring of eight Gaussians, as it learns: plain, and with adaptive weights.

    python docs/gallery/ring.py [--quick]

The discriminator has two losses, on real samples and on fake ones, whose gradients pull against each other.
`AdaptiveWeights` looks at how well the discriminator does on either and at the angle between the two gradients, and
weighs them; the generator is trained as ever. One seed of each: what this is worth over many seeds is measured in
benchmarks/studies/ring.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from _common import save, start
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient, Rule
from gradweight.gan import Vanilla, modes_covered, probability_scores
from gradweight.rules import AdaptiveWeights, Sum

ANGLES = 2 * math.pi * torch.arange(8) / 8
MODES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
STD = 0.02


def real_samples(n: int) -> Tensor:
    return MODES[torch.randint(8, (n,))] + STD * torch.randn(n, 2)


def network(inputs: int, outputs: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 128), activation, nn.Linear(128, 128), activation, nn.Linear(128, outputs))


def train(rule: Rule, steps: int, frames: list[int]) -> list[Tensor]:
    """Samples of the generator after each number of steps in `frames`."""
    torch.manual_seed(1)
    generator = network(8, 2, nn.ReLU())
    discriminator = network(2, 1, nn.LeakyReLU(0.2))
    g_opt = torch.optim.Adam(generator.parameters(), 5e-4, betas=(0.5, 0.99))
    d_adam = torch.optim.Adam(discriminator.parameters(), 5e-4, betas=(0.5, 0.99))
    d_opt = MultiObjectiveGradient(d_adam, rule)  # the one line that is new
    loss, watched, found = Vanilla(), torch.randn(1000, 8), []

    for step in range(steps + 1):
        if step in frames:
            found.append(generator(watched).detach())
        fake = generator(torch.randn(128, 8))

        d_opt.zero_grad()
        on_real, on_fake = discriminator(real_samples(128)), discriminator(fake.detach())
        scores = probability_scores(on_real, on_fake) if isinstance(rule, AdaptiveWeights) else {}
        d_opt.backward(loss.discriminator(on_real, on_fake), **scores)
        d_opt.step()

        g_opt.zero_grad()
        sum(loss.generator(discriminator(fake)).values()).backward()
        g_opt.step()
    return found


def main() -> None:
    options = start(__doc__)
    steps = 8 if options.quick else 6000
    frames = [steps * i // 4 for i in range(5)]
    figure, axes = plt.subplots(2, 5, figsize=(8.3, 4), sharex=True, sharey=True)
    for row, rule in zip(axes, (Sum(), AdaptiveWeights()), strict=True):
        name = "plain" if isinstance(rule, Sum) else "AdaptiveWeights"
        for axis, step, samples in zip(row, frames, train(rule, steps, frames), strict=True):
            axis.scatter(*MODES.T, s=60, facecolors="none", edgecolors="#777777", lw=0.8)
            axis.scatter(*samples.T, s=3, alpha=0.4, lw=0)
            axis.set_title(f"step {step:,}: {int(modes_covered(samples, MODES, STD))} of 8")
            axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set_visible(True)
        row[0].set_ylabel(name)
        print(f"{name}: done", flush=True)
    figure.suptitle("Samples as training goes on, and how many of the eight modes they cover")
    save(figure, "ring.png", options)


if __name__ == "__main__":
    main()
