"""What the studies of angles, scores and thresholds run: rows of numbers, one after the other."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.studies.images.classifier import Judge
from benchmarks.studies.images.datasets import Images, to_unit
from benchmarks.studies.images.models import NOISE, SETTINGS, dcgan, dcgan_generator
from benchmarks.studies.images.training import sample, train
from gradweight import MultiObjectiveGradient
from gradweight.gan import Hinge, probability_scores
from gradweight.rules import AdaptiveWeights, Sum

NORMS = {"batch norm": True, "no batch norm": False}
RULES: dict[str, AdaptiveWeights | None] = {
    "original": None,
    "aw": AdaptiveWeights(),
    "aw-relative": AdaptiveWeights(epsilon_mode="relative"),
}
HINGE = Hinge()


@dataclass(frozen=True)
class Size:
    """How much is run."""

    width: int
    iterations: int
    score_iterations: int
    seeds: int
    grid_width: int
    grid_steps: int
    grid_seeds: int
    judged: int
    alpha1: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)
    alpha2: tuple[float, ...] = (0.6, 0.75, 0.9)
    first_seed: int = 0

    def range_of(self, seeds: int) -> range:
        """So many seeds, from the first on."""
        return range(self.first_seed, self.first_seed + seeds)


FULL = Size(32, 50, 60, 3, 8, 400, 4, 2000)
QUICK = Size(4, 4, 3, 1, 4, 5, 2, 32, (0.5,), (0.6, 0.75))


# ---- one iteration of training, by hand: the studies look in between


class Pair:
    """DCGAN with its optimizers, the data and the noise of one seed."""

    def __init__(self, images: Images, width: int, batch_norm: bool, seed: int, rule: AdaptiveWeights | None) -> None:
        torch.manual_seed(seed)
        self.generator = dcgan_generator(width, images.channels)
        self.discriminator = dcgan(width, images.channels, batch_norm=batch_norm)
        self.data, self.random = images.samples, torch.Generator().manual_seed(seed)
        adam = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
        self.d_base = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.d_opt = MultiObjectiveGradient(self.d_base, rule or Total())
        self.g_opt = torch.optim.Adam(self.generator.parameters(), **adam)

    def noise(self) -> Tensor:
        """A batch of noise."""
        return torch.randn(64, NOISE, generator=self.random)

    def batch(self) -> tuple[Tensor, Tensor]:
        """A real and a fake batch."""
        real = to_unit(self.data[torch.randint(len(self.data), (64,), generator=self.random)])
        with torch.no_grad():
            return real, self.generator(self.noise())

    def generator_step(self) -> None:
        """One step of the generator."""
        self.g_opt.zero_grad()
        loss = sum(HINGE.generator(self.discriminator(self.generator(self.noise()))).values())
        loss.backward(inputs=list(self.generator.parameters()))
        self.g_opt.step()


class Total:
    """The plain sum, taking the signals that `AdaptiveWeights` declares, so that either can be given them."""

    def __call__(self, gram: Tensor, /, *, real_score: Tensor, fake_score: Tensor) -> Tensor:
        """Weight 1 for either."""
        return Sum()(gram)


def backward(d_opt: MultiObjectiveGradient, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Any:
    """The gradient of one discriminator step; returns the `Combination`."""
    d_opt.zero_grad()
    logits = discriminator(real), discriminator(fake)
    return d_opt.backward(HINGE.discriminator(*logits), **probability_scores(*logits))


# ---- section 5.1


def angles(images: Images, size: Size) -> Iterator[dict[str, Any]]:
    """Angles between real, fake and combined gradients at each iteration."""
    for norm, loss, seed in itertools.product(NORMS, RULES, size.range_of(size.seeds)):
        pair = Pair(images, size.width, NORMS[norm], seed, RULES[loss])
        for iteration in range(1, size.iterations + 1):
            seen = backward(pair.d_opt, pair.discriminator, *pair.batch())
            pair.d_opt.step()
            pair.generator_step()
            between = degrees(seen.gram, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
            yield {
                "net": norm,
                "loss": loss,
                "seed": seed,
                "iteration": iteration,
                "real-fake": between,
                "real-combined": degrees(seen.gram, torch.tensor([1.0, 0.0]), seen.weights),
                "fake-combined": degrees(seen.gram, torch.tensor([0.0, 1.0]), seen.weights),
                "norm real": float(seen.norms[0]),
                "norm fake": float(seen.norms[1]),
            }


def degrees(gram: Tensor, a: Tensor, b: Tensor) -> float:
    """The angle between two combinations of the gradients; NaN if one is zero."""
    gram, a, b = gram.double(), a.double(), b.double()
    lengths = ((a @ gram @ a) * (b @ gram @ b)).clamp(min=0).sqrt()
    return float(torch.rad2deg(torch.acos((a @ gram @ b / lengths).clamp(-1, 1))))


# ---- section 5.2

COLUMNS = ("before", "original", "aw", "aw at its length")


def scores(images: Images, size: Size) -> Iterator[dict[str, Any]]:
    """Mean logits on the batch before a step and after each kind of step; the run goes on with the plain one."""
    for norm, seed in itertools.product(NORMS, size.range_of(size.seeds)):
        pair = Pair(images, size.width, NORMS[norm], seed, rule=None)
        aw = MultiObjectiveGradient(pair.d_base, AdaptiveWeights())
        for iteration in range(1, size.score_iterations + 1):
            real, fake = pair.batch()
            row: dict[str, Any] = {"net": norm, "seed": seed, "iteration": iteration}
            saved = copy.deepcopy(pair.discriminator.state_dict()), copy.deepcopy(pair.d_base.state_dict())
            put(row, "before", pair.discriminator, real, fake)
            backward(pair.d_opt, pair.discriminator, real, fake)
            plain = length(pair.discriminator)
            for column in ("aw", "aw at its length", "original"):
                pair.discriminator.load_state_dict(saved[0])
                pair.d_base.load_state_dict(copy.deepcopy(saved[1]))
                opt = pair.d_opt if column == "original" else aw
                backward(opt, pair.discriminator, real, fake)
                if column == "aw":
                    row["length of aw over original"] = float(length(pair.discriminator) / plain)  # NaN: both are zero
                if column == "aw at its length":
                    with torch.no_grad():
                        own = length(pair.discriminator)
                        scale = torch.where(own > 0, plain / own, 1.0)  # both hinge losses may be without gradient
                        for p in pair.discriminator.parameters():
                            p.grad *= scale
                opt.step()
                put(row, column, pair.discriminator, real, fake)
            pair.generator_step()
            yield row


def length(net: nn.Module) -> Tensor:
    """Of the gradient."""
    return torch.stack([p.grad.norm() for p in net.parameters()]).norm()


@torch.no_grad()
def put(row: dict[str, Any], column: str, discriminator: nn.Module, real: Tensor, fake: Tensor) -> None:
    """The two mean logits, with the statistics of the batch as in training but the running ones left alone."""
    buffers = {name: b.clone() for name, b in discriminator.named_buffers()}
    row[f"real {column}"], row[f"fake {column}"] = float(discriminator(real).mean()), float(discriminator(fake).mean())
    for name, b in discriminator.named_buffers():
        b.copy_(buffers[name])


# ---- appendix B


def grid(images: Images, size: Size, judge: Judge, before: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """classifier-FID and classifier-score for each pair of thresholds, early and late; keeps the rows from before."""
    setting = replace(SETTINGS["dcgan"], loss=HINGE, rate=1e-3)
    early = max(size.grid_steps // 5, 1)
    noise = torch.randn(size.judged, NOISE, generator=torch.Generator().manual_seed(10**6))
    for seed, alpha1, alpha2 in itertools.product(size.range_of(size.grid_seeds), size.alpha1, size.alpha2):
        found = [r for r in before if (r["seed"], r["alpha1"], r["alpha2"]) == (seed, alpha1, alpha2)]
        if len(found) == 2:
            yield from found
            continue
        torch.manual_seed(seed)
        nets = dcgan_generator(size.grid_width, images.channels), dcgan(size.grid_width, images.channels)
        rule = AdaptiveWeights(alpha1=alpha1, alpha2=alpha2)
        for step in train(nets, setting, (rule, False), images.samples, size.grid_steps, 32, seed):
            if step in (early, size.grid_steps):
                metrics = judge(sample(nets[0], noise))
                kept = {name: metrics[name] for name in ("classifier_score", "classifier_fid")}
                yield {"alpha1": alpha1, "alpha2": alpha2, "seed": seed, "step": step} | kept
