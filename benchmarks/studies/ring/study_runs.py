"""What the ring study trains: its settings, its methods, and what a run is given by its seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.studies.ring.ensemble import MODES, Adam, Ensemble, Method
from gradweight.gan import Alpha, LeastSquares, Vanilla
from gradweight.rules import AdaptiveWeights

STD = 0.01
BETAS, SLOPE = (0.9, 0.99), 0.01
"""Of Adam, as the authors have them; of LeakyReLU, where they do not say, torch's default."""


@dataclass(frozen=True)
class Setting:
    """The networks, the data and the schedule; the default is the study on a CPU."""

    generator_width: int = 100
    discriminator_width: int = 50
    hidden_layers: int = 4
    learning_rate: float = 5e-4
    batch: int = 128
    steps: int = 10_000
    train: int = 50_000
    test: int = 25_000
    evaluations: int = 10

    @property
    def moments(self) -> list[int]:
        """The steps after which the runs are measured, the last one among them."""
        return [math.ceil(self.steps * (i + 1) / self.evaluations) for i in range(self.evaluations)]

    @property
    def epoch(self) -> int:
        """Steps of one pass over the training set, whose last batch is dropped if it is not full."""
        return self.train // self.batch


HALF = Setting(200, 100)
# the (alpha_D, alpha_G) paper's: 400 epochs
PAPER = Setting(400, 200, learning_rate=1e-4, steps=400 * (50_000 // 128), evaluations=20)
QUICK = Setting(8, 8, batch=16, steps=4, train=64, test=200, evaluations=2)


UNNORMALIZED = AdaptiveWeights(normalized=False)
METHODS = {
    "saturating/plain": Method(Vanilla(saturating=True)),
    "saturating/aw": Method(Vanilla(saturating=True), AdaptiveWeights(), aside=True),
    "saturating/aw-2": Method(Vanilla(saturating=True), UNNORMALIZED, aside=True),
    "saturating/advas": Method(Vanilla(saturating=True), advas=True, aside=True),
    "saturating/alpha (0.5, 1)": Method(Alpha(0.5, 1.0, saturating=True, clamp=1e-7)),
    "saturating/alpha (0.5, 1), no clamp": Method(Alpha(0.5, 1.0, saturating=True), aside=True),
    "non-saturating/plain": Method(Vanilla()),
    "non-saturating/aw": Method(Vanilla(), AdaptiveWeights()),
    "non-saturating/aw-2": Method(Vanilla(), UNNORMALIZED, aside=True),
    "non-saturating/advas": Method(Vanilla(), advas=True),
    "non-saturating/alpha (0.5, 1.2)": Method(Alpha(0.5, 1.2, clamp=1e-7)),
    "non-saturating/least squares": Method(LeastSquares()),
}
"""By the generator's game and the discriminator's side of it; aw-2 is the paper's Algorithm 2."""


# ---- what a run is given by its seed


def networks(seed: int, setting: Setting) -> tuple[nn.Sequential, nn.Sequential]:
    """The generator and the discriminator that the runs of a seed start from, whatever the method."""

    def layers(width: int, outputs: int, activation: nn.Module) -> nn.Sequential:
        sizes = [2, *[width] * setting.hidden_layers]
        hidden = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), activation)]
        return nn.Sequential(*hidden, nn.Linear(width, outputs))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (
            layers(setting.generator_width, 2, nn.ReLU()),
            layers(setting.discriminator_width, 1, nn.LeakyReLU(SLOPE)),
        )


def training_set(setting: Setting) -> tuple[Tensor, Tensor]:
    """The samples of the ring and the noise vectors to train on, each (train, 2), the same for every run."""
    random = torch.Generator().manual_seed(1)
    mode = torch.randint(len(MODES), (setting.train,), generator=random)
    real = MODES[mode] + STD * torch.randn(setting.train, 2, generator=random)
    return real, torch.randn(setting.train, 2, generator=random)


def test_noise(setting: Setting) -> Tensor:
    """The noise vectors to measure with, (test, 2)."""
    return torch.randn(setting.test, 2, generator=torch.Generator().manual_seed(2))


def order(seed: int, epoch: int, setting: Setting) -> Tensor:
    """Which sample and which noise vector each step of an epoch sees, (2, steps of the epoch, batch)."""
    random = torch.Generator().manual_seed(1_000_000 * (epoch + 1) + seed)
    seen = setting.epoch * setting.batch
    both = torch.stack([torch.randperm(setting.train, generator=random)[:seen] for _ in range(2)])
    return both.view(2, setting.epoch, setting.batch)


# ---- the runs


class StudyEnsemble(Ensemble):
    """One run for each seed by one method, on the study's data."""

    def __init__(
        self,
        method: Method,
        seeds: Sequence[int],
        setting: Setting,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        members = [networks(seed, setting) for seed in seeds]
        super().__init__(method, members, Adam(setting.learning_rate, BETAS), SLOPE, device, dtype)
        self.seeds, self.setting = list(seeds), setting
        self.real, self.noise = (x.to(device, dtype) for x in training_set(setting))

    def train(self) -> Iterator[int]:
        """Take the steps that are left; yields their number after each."""
        indices = torch.empty(0)
        while self.taken < self.setting.steps:
            epoch, within = divmod(self.taken, self.setting.epoch)
            if within == 0 or not len(indices):
                indices = torch.stack([order(seed, epoch, self.setting) for seed in self.seeds]).to(self.device)
            self.step(self.real[indices[:, 0, within]], self.noise[indices[:, 1, within]])
            yield self.taken
