"""EnCodec's balancer: three losses of a codec, each with the share of the gradient that was chosen for it.

    python docs/gallery/encodec.py [--quick]

A small convolutional codec learns chirps of 512 samples. Its losses are the waveform's distance, the distance of
spectra, and an adversarial one; their gradients differ by orders of magnitude and change as the critic learns. With
``NormBalance({"time": 1, "spectrum": 2, "adversarial": 1})`` what counts is the share that was asked for, not the scale
that a loss happens to have. ``shared=output`` shows the rule the gradients at the decoder's output, where the paper has
them: a short backward pass for each loss, and one through the codec.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from _common import save, start
from torch import Tensor, nn
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient
from gradweight.gan import LeastSquares
from gradweight.rules import NormBalance

SHARES = {"time": 1.0, "spectrum": 2.0, "adversarial": 1.0}
LENGTH = 512


def chirps(n: int) -> Tensor:
    """Tones that rise or fall, with an envelope, (n, 1, 512)."""
    t = torch.linspace(0, 1, LENGTH)
    low, slope, phase, centre = (torch.rand(4, n, 1) * torch.tensor([16, 24, 2 * math.pi, 1]).view(4, 1, 1)).unbind()
    tone = torch.sin(2 * math.pi * (4 + low + slope * t) * t + phase)
    return (tone * torch.exp(-8 * (t - centre) ** 2)).unsqueeze(1)


def spectrum(x: Tensor) -> Tensor:
    window = torch.hann_window(64)
    return torch.stft(x.squeeze(1), 64, 16, window=window, return_complex=True).abs().add(1e-3).log()


def codec() -> nn.Module:
    """Sixteen times fewer numbers in the middle than samples."""
    down, up = [], []
    for a, b in ((1, 16), (16, 24), (24, 32), (32, 32)):
        down += [nn.Conv1d(a, b, 4, 2, 1), nn.ELU()]
        up = [nn.ConvTranspose1d(b, a, 4, 2, 1), nn.ELU(), *up]
    middle = [nn.Conv1d(32, 2, 1), nn.Tanh(), nn.Conv1d(2, 32, 1), nn.ELU()]
    return nn.Sequential(*down, *middle, *up[:-1])


def main() -> None:
    options = start(__doc__)
    steps = 6 if options.quick else 800
    net = codec()
    critic = nn.Sequential(
        nn.Conv1d(1, 16, 15, 4, 7),
        nn.LeakyReLU(0.2),
        nn.Conv1d(16, 32, 15, 4, 7),
        nn.LeakyReLU(0.2),
        nn.Conv1d(32, 1, 3),
    )
    adam = torch.optim.Adam(net.parameters(), 2e-3, betas=(0.5, 0.9))
    opt = MultiObjectiveGradient(adam, NormBalance(SHARES, beta=0.99), history=steps)
    critic_opt = torch.optim.Adam(critic.parameters(), 5e-4, betas=(0.5, 0.9))
    game = LeastSquares()

    for _ in range(steps):
        x = chirps(32)
        output = net(x)
        opt.zero_grad()
        losses = {
            "time": F.l1_loss(output, x),
            "spectrum": F.l1_loss(spectrum(output), spectrum(x)),
            "adversarial": sum(game.generator(critic(output)).values()),
        }
        opt.backward(losses, shared=output)
        opt.step()

        critic_opt.zero_grad()
        sum(game.discriminator(critic(x), critic(output.detach())).values()).backward()
        critic_opt.step()

    figure, axes = plt.subplot_mosaic([["wave", "wave"], ["norm", "share"]], figsize=(8.3, 5.6))
    x = chirps(1)
    axes["wave"].plot(x[0, 0], color="#222222", lw=4, alpha=0.2, label="input")
    axes["wave"].plot(net(x)[0, 0].detach(), lw=1, label="decoded")
    axes["wave"].set(xlabel="sample", ylabel="amplitude", title="A chirp through 64 numbers", xlim=(0, LENGTH))
    axes["wave"].legend(ncols=2)
    records = [combination.as_dict() for combination in opt.history]
    norms = torch.tensor([[record[f"grad_norm/{name}"] for name in SHARES] for record in records])
    weights = torch.tensor([[record[f"weight/{name}"] for name in SHARES] for record in records])
    shares = norms * weights / (norms * weights).sum(1, keepdim=True)
    for name, norm, share in zip(SHARES, norms.T, shares.T, strict=True):
        axes["norm"].plot(norm, lw=0.8, label=name)
        axes["share"].plot(share, lw=0.8)
        axes["share"].axhline(SHARES[name] / sum(SHARES.values()), color="#222222", lw=0.8, ls="--")
    axes["norm"].set(xlabel="step", ylabel="gradient at the output (log scale)", yscale="log", title="Before")
    axes["share"].set(xlabel="step", ylabel="share of the weighted gradient", ylim=(0, 1), title="After: as asked for")
    axes["norm"].legend(ncols=3, columnspacing=1)
    for panel in axes.values():
        panel.grid()
    save(figure, "encodec.png", options)


if __name__ == "__main__":
    main()
