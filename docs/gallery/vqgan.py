"""VQGAN's adaptive weight: an adversarial loss as strong as the reconstruction, at the decoder's last layer.

    python docs/gallery/vqgan.py [--quick]

An autoencoder with a codebook learns shapes of 16 x 16 pixels. Its losses are the reconstruction, the codebook and,
from a third of the steps on, a discriminator of patches. How to scale the last is not known beforehand: its gradient
is as long as the discriminator is good. `VQGANWeight` makes it 0.8 times as long as the reconstruction's, and
`LossBalancer` measures both at the last layer, as the paper does, so that a step costs one backward pass and two short
ones.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from _common import save, start
from torch import Tensor, nn
from torch.nn import functional as F

from gradweight import LossBalancer
from gradweight.gan import Hinge
from gradweight.rules import VQGANWeight

SIZE, CODES, DEPTH = 16, 32, 8


def shapes(n: int) -> Tensor:
    """Discs and frames of random places and sizes, (n, 1, 16, 16) in [-1, 1]."""
    at = torch.linspace(-1, 1, SIZE)
    x, y, size = (torch.empty(n, 1, 1).uniform_(low, high) for low, high in ((-0.3, 0.3), (-0.3, 0.3), (0.3, 0.7)))
    dx, dy = at.view(1, 1, -1) - x, at.view(1, -1, 1) - y
    disc, square = (dx**2 + dy**2).sqrt() - size, torch.maximum(dx.abs(), dy.abs()) - size
    edge = torch.where(torch.rand(n, 1, 1) < 0.5, disc, square.abs() - 0.1)
    return torch.tanh(-edge / 0.05).unsqueeze(1)


class Autoencoder(nn.Module):
    """Two strides down, the nearest of 32 codes, two strides up."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, DEPTH, 1)
        )
        self.codes = nn.Parameter(0.1 * torch.randn(CODES, DEPTH))
        self.decoder = nn.Sequential(
            nn.Conv2d(DEPTH, 32, 3, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.SiLU(),
        )  # fmt: skip
        self.last = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions, and the codebook's loss."""
        z = self.encoder(images).movedim(1, -1)
        quantized = self.codes[torch.cdist(z.flatten(0, 2), self.codes).argmin(1)].view_as(z)
        codebook = F.mse_loss(quantized, z.detach()) + 0.25 * F.mse_loss(z, quantized.detach())
        straight = z + (quantized - z).detach()  # the gradient goes through as if nothing had been rounded
        return self.last(self.decoder(straight.movedim(-1, 1))), codebook


def main() -> None:
    options = start(__doc__)
    steps = 6 if options.quick else 900
    net = Autoencoder()
    critic = nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 3)
    )
    opt = torch.optim.Adam(net.parameters(), 1e-3, betas=(0.5, 0.9))
    critic_opt = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.5, 0.9))
    rule = VQGANWeight("reconstruction", "adversarial", every_step=False)
    balancer = LossBalancer(rule, net.last.parameters(), history=steps)
    hinge, watched = Hinge(), shapes(8)
    before = watched

    for step in range(steps):
        images = shapes(32)
        rebuilt, codebook = net(images)
        losses = {"reconstruction": F.mse_loss(rebuilt, images)}
        if step >= steps // 3:
            losses["adversarial"] = sum(hinge.generator(critic(rebuilt)).values())
        elif step == steps // 3 - 1:
            before = net(watched)[0].detach()

        opt.zero_grad()
        (balancer(losses) + codebook).backward()  # one scalar; the codebook's loss does not reach the last layer
        opt.step()

        if step >= steps // 3:
            critic_opt.zero_grad()
            sum(hinge.discriminator(critic(images), critic(rebuilt.detach())).values()).backward()
            critic_opt.step()

    figure, axes = plt.subplot_mosaic([["pictures", "pictures"], ["norm", "weight"]], figsize=(8.3, 6))
    rows = F.pad(torch.stack([watched, before, net(watched)[0].detach()])[:, :, 0], (1, 1, 1, 1), value=1.0)
    axes["pictures"].imshow(rows.movedim(1, 2).flatten(0, 1).flatten(1).numpy(), cmap="gray", vmin=-1, vmax=1)
    axes["pictures"].set_yticks([9, 27, 45], ["image", "without critic", "with critic"])
    axes["pictures"].set(xticks=[], title="Reconstructions before the adversarial loss came in, and at the end")
    axes["pictures"].spines[:].set_visible(False)
    seen = [combination.as_dict() for combination in balancer.history]
    for name in ("reconstruction", "adversarial"):
        axes["norm"].plot([record.get(f"grad_norm/{name}") for record in seen], label=name, lw=0.8)
    axes["norm"].set(xlabel="step", ylabel="gradient at the last layer (log scale)", yscale="log")
    axes["weight"].plot([record.get("weight/adversarial") for record in seen], color="C1", lw=0.8)
    axes["weight"].set(xlabel="step", ylabel="adversarial weight (log scale)", yscale="log")
    axes["norm"].legend()
    for panel in ("norm", "weight"):
        axes[panel].grid()
    save(figure, "vqgan.png", options)


if __name__ == "__main__":
    main()
