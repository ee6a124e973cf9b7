"""Two problems with an opponent: a codec of short frames with a critic of its sound, and a GAN on a ring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, softplus

from benchmarks.studies.helps.networks import initial, perceptron
from gradweight.gan import sliced_wasserstein
from gradweight.rule import Rule
from gradweight.rules import AdaptiveWeights, VQGANWeight

__all__ = ["Codec", "Ring"]

Tensors = Sequence[Tensor]
TEST = 500


def _network(params: Tensors, x: Tensor) -> Tensor:
    return perceptron(params, x, lambda z: leaky_relu(z, 0.2))


def _fresh(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Codec:
    """An autoencoder of frames of 16 samples through two noisy numbers: to be near the frame, and to sound like one.

    A frame is a tone of random pitch, loudness and phase, three numbers; so two cannot tell it, and the nearest answer
    is a muffled tone. The second loss is that of a discriminator between frames and answers, which is trained beside.
    """

    name: str = "Codec"
    losses: tuple[str, ...] = ("reconstruction", "adversarial")
    steps: int = 1000
    rate: float = 8e-3
    emphasis: tuple[dict[str, float], ...] = ({"adversarial": 1.0}, {"adversarial": 0.1}, {"adversarial": 0.01})
    betas: tuple[float, float] = (0.5, 0.99)
    trivial: float = 0.5
    extra: dict[str, Rule] = field(default_factory=lambda: {"VQGANWeight": VQGANWeight()})
    width: int = 16
    hidden: int = 24
    code: int = 2
    batch: int = 32

    def networks(self, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Encoder and decoder; the discriminator."""
        encoder = initial((self.width, self.hidden, self.code), random, gain=2**0.5)
        decoder = initial((self.code, self.hidden, self.width), random, gain=2**0.5)
        return [*encoder, *decoder], initial((self.width, self.hidden, 1), random, gain=2**0.5)

    def batches(self, random: torch.Generator, count: int) -> list[Tensor]:
        """Frames, and the noise of the channel."""
        noise = torch.randn(count, self.batch, self.code, generator=random)
        return [self.frames(random, count, self.batch), noise]

    def frames(self, random: torch.Generator, *shape: int) -> Tensor:
        """Tones of one to three periods a frame, (*shape, 16)."""
        pitch, phase, loudness = torch.rand(3, *shape, 1, generator=random)
        time = torch.arange(self.width) / self.width
        return (0.5 + loudness / 2) * torch.sin(2 * math.pi * ((1 + 2 * pitch) * time + phase))

    def answers(self, params: Tensors, frames: Tensor, noise: Tensor) -> Tensor:
        """What comes out of the channel, whose noise has a tenth of the code's range."""
        code = torch.tanh(_network(params[:4], frames))
        return _network(params[4:], code + 0.1 * noise)

    def terms(self, params: Tensors, opponent: Tensors, batch: Tensors) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Mean squared error, and how far the discriminator is not fooled."""
        frames, noise = batch
        answers = self.answers(params, frames, noise)
        fooled = softplus(-_network(opponent, answers)).mean((1, 2))
        return [(answers - frames).square().mean((1, 2)), fooled], {}

    def opponent_loss(self, params: Tensors, opponent: Tensors, batch: Tensors) -> Tensor:
        """The discriminator's: frames against answers."""
        with torch.no_grad():
            answers = self.answers(params, *batch)
        real, fake = _network(opponent, torch.cat([batch[0], answers], dim=1)).chunk(2, dim=1)
        return (softplus(-real) + softplus(fake)).mean((1, 2))

    def parts(self, params: Tensors, opponent: Tensors) -> dict[str, Tensor]:
        """How far answers are from their frames, and their distribution from that of frames."""
        frames, others = self.frames(_fresh(1), TEST), self.frames(_fresh(2), TEST)
        noise = torch.randn(TEST, self.code, generator=_fresh(3))
        runs = len(params[0])
        answers = self.answers(params, frames.expand(runs, -1, -1), noise.expand(runs, -1, -1))
        return {
            "distance": (answers - frames).square().mean((1, 2)).sqrt(),
            "sound": sliced_wasserstein(answers, others.expand(runs, -1, -1), projections=64),
        }


@dataclass
class Ring:
    """A GAN of eight Gaussians on the unit circle: weighed are the discriminator's losses on real and on fake."""

    name: str = "Ring"
    losses: tuple[str, ...] = ("real", "fake")
    steps: int = 1000
    rate: float = 4e-3
    emphasis: tuple[dict[str, float], ...] = ({"real": 1.0}, {"real": 3.0}, {"fake": 3.0})
    betas: tuple[float, float] = (0.5, 0.99)
    trivial: float = 0.7
    extra: dict[str, Rule] = field(default_factory=lambda: {"AdaptiveWeights": AdaptiveWeights()})
    hidden: int = 24
    batch: int = 32

    def networks(self, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """The discriminator, which is weighed; the generator."""
        sizes = (2, self.hidden, self.hidden)
        return initial((*sizes, 1), random, gain=2**0.5), initial((*sizes, 2), random, gain=2**0.5)

    def batches(self, random: torch.Generator, count: int) -> list[Tensor]:
        """Samples of the ring, and noise."""
        return [samples(random, count, self.batch), torch.randn(count, self.batch, 2, generator=random)]

    def terms(self, params: Tensors, opponent: Tensors, batch: Tensors) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The discriminator's losses on real and on fake samples, and its mean scores."""
        with torch.no_grad():
            made = _network(opponent, batch[1])
        real, fake = _network(params, torch.cat([batch[0], made], dim=1)).squeeze(-1).chunk(2, dim=1)
        scores = {"real_score": real.detach().sigmoid().mean(1), "fake_score": fake.detach().sigmoid().mean(1)}
        return [softplus(-real).mean(1), softplus(fake).mean(1)], scores

    def opponent_loss(self, params: Tensors, opponent: Tensors, batch: Tensors) -> Tensor:
        """The generator's, non-saturating."""
        return softplus(-_network(params, _network(opponent, batch[1]))).mean((1, 2))

    def parts(self, params: Tensors, opponent: Tensors) -> dict[str, Tensor]:
        """How far the generator's samples are from the ring's."""
        runs = len(params[0])
        made = _network(opponent, torch.randn(TEST, 2, generator=_fresh(3)).expand(runs, -1, -1))
        return {"sliced Wasserstein": sliced_wasserstein(made, samples(_fresh(1), TEST).expand(runs, -1, -1))}


def samples(random: torch.Generator, *shape: int) -> Tensor:
    """Of the ring, (*shape, 2), of deviation 0.05 around each of the modes."""
    angle = torch.randint(8, shape, generator=random) * (math.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * torch.randn(*shape, 2, generator=random)
