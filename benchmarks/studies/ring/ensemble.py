"""Many GANs on the ring of eight Gaussians, trained side by side: one run for each seed, in one batch of matrices.

The parameters of all runs lie stacked, (runs, ...), and the runs share nothing. So the gradient of a loss that is
summed over them holds each run's own, one backward serves all, and a rule sees one Gram matrix for each through
`torch.vmap`. What a run gets to see (its initial networks, the order of its data and of its noise) depends on its seed
only: neither on the method, so that methods are compared over paired seeds, nor on the runs beside it.

`gradweight.func.combined_grad` under ``torch.vmap`` computes the same from functions of one run, in twice the
time on a CPU (tests/benchmarks/studies/test_ring.py has it as the reference, beside single runs through
`MultiObjectiveGradient`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from gradweight.gan import Alpha, LeastSquares, Vanilla, advas_penalty, probability_scores
from gradweight.gan.losses import PerSampleLoss
from gradweight.rules import AdaptiveWeights, AdvAs

STD = 0.01
MODES = torch.stack([torch.arange(8).mul(math.pi / 4).cos(), torch.arange(8).mul(math.pi / 4).sin()], dim=1)
BETAS, SLOPE = (0.9, 0.99), 0.01
"""Of Adam, as the authors have them; of LeakyReLU, where they do not say, torch's default."""

Params = dict[str, Tensor]


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


@dataclass(frozen=True)
class Method:
    """A loss, the rule by which the discriminator weighs its two terms (None: their sum), and whether AdvAs helps.

    A method that no paper's claim rests on is aside: trained last, and on a CPU with fewer seeds.
    """

    loss: PerSampleLoss
    rule: AdaptiveWeights | None = None
    advas: bool = False
    aside: bool = False


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


class Ensemble:
    """One run for each seed by one method, all at the same step."""

    def __init__(
        self,
        method: Method,
        seeds: Sequence[int],
        setting: Setting,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.method, self.seeds, self.setting, self.device = method, list(seeds), setting, device
        pairs = [networks(seed, setting) for seed in seeds]
        self.g, self.d = (_stack(list(n), device, dtype) for n in zip(*pairs, strict=True))
        self.g_opt, self.d_opt = (
            torch.optim.Adam(list(p.values()), setting.learning_rate, betas=BETAS, fused=True) for p in (self.g, self.d)
        )
        self.real, self.noise = (x.to(device, dtype) for x in training_set(setting))
        self.taken = 0

    def train(self) -> Iterator[int]:
        """Take the steps that are left; yields their number after each."""
        indices = torch.empty(0)
        while self.taken < self.setting.steps:
            epoch, within = divmod(self.taken, self.setting.epoch)
            if within == 0 or not len(indices):
                indices = torch.stack([order(seed, epoch, self.setting) for seed in self.seeds]).to(self.device)
            self.step(self.real[indices[:, 0, within]], self.noise[indices[:, 1, within]])
            self.taken += 1
            yield self.taken

    def step(self, real: Tensor, noise: Tensor) -> None:
        """One step of the discriminator and one of the generator; real and noise (runs, batch, 2)."""
        loss, fake = self.method.loss, generate(self.g, noise)

        real_logits, fake_logits = discriminate(self.d, real), discriminate(self.d, fake.detach())
        terms = {name: self.over_runs(term) for name, term in loss.discriminator(real_logits, fake_logits).items()}
        if self.method.rule is None:
            _descend(self.d_opt, self.d, _gradient(sum(terms.values()), self.d))
        else:
            scores = torch.vmap(probability_scores)(real_logits.detach(), fake_logits.detach())
            _descend(self.d_opt, self.d, _combined(self.method.rule, terms, self.d, scores))

        fake_logits = discriminate(self.d, fake)
        terms = {name: self.over_runs(term) for name, term in loss.generator(fake_logits).items()}
        if not self.method.advas:
            _descend(self.g_opt, self.g, _gradient(sum(terms.values()), self.g))
        else:
            # the squared norm of all the runs' gradients is the sum of theirs
            adversary = loss.discriminator(discriminate(self.d, real), fake_logits)
            terms["advas"] = advas_penalty({k: self.over_runs(term) for k, term in adversary.items()}, self.d)
            _descend(self.g_opt, self.g, _combined(AdvAs(), terms, self.g, {}))

    def over_runs(self, mean: Tensor | float) -> Any:
        """The sum over the runs of a mean over each one's batch, from the mean over all samples of all runs."""
        return len(self.seeds) * mean

    @torch.no_grad()
    def samples(self, noise: Tensor) -> Tensor:
        """What each generator makes of the noise vectors (n, 2), on the CPU: (runs, n, 2)."""
        noise = noise.to(self.real)
        one_by_one = ({name: p[i : i + 1] for name, p in self.g.items()} for i in range(len(self.seeds)))
        return torch.cat([generate(params, noise[None]) for params in one_by_one]).cpu()

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the runs depends on, for `load_state_dict`."""
        values = {"g": self.g, "d": self.d}
        tensors = {name: {k: p.detach() for k, p in params.items()} for name, params in values.items()}
        return {"taken": self.taken, **tensors, "g_opt": self.g_opt.state_dict(), "d_opt": self.d_opt.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another ensemble of the same method, seeds and setting stood."""
        self.taken = state["taken"]
        for name, params in (("g", self.g), ("d", self.d)):
            for key, p in params.items():
                p.copy_(state[name][key])
        self.g_opt.load_state_dict(state["g_opt"])
        self.d_opt.load_state_dict(state["d_opt"])


def generate(params: Params, noise: Tensor) -> Tensor:
    """The generators' samples, (runs, batch, 2)."""
    return _perceptron(params, noise, relu)


def discriminate(params: Params, samples: Tensor) -> Tensor:
    """The discriminators' logits, (runs, batch)."""
    return _perceptron(params, samples, lambda x: leaky_relu(x, SLOPE)).squeeze(-1)


def _perceptron(params: Params, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    layers = len(params) // 2
    for i in range(layers):
        x = torch.baddbmm(params[f"{i}.bias"], x, params[f"{i}.weight"])
        x = activation(x) if i < layers - 1 else x
    return x


def _stack(members: list[nn.Sequential], device: str, dtype: torch.dtype) -> Params:
    """Weights (runs, inputs, outputs), as a product of batches takes them without a copy, biases (runs, 1, outputs)."""
    linear = [[m for m in network if isinstance(m, nn.Linear)] for network in members]
    params = {}
    for i, layers in enumerate(zip(*linear, strict=True)):
        params[f"{i}.weight"] = torch.stack([layer.weight.detach().mT for layer in layers]).contiguous()
        params[f"{i}.bias"] = torch.stack([layer.bias.detach()[None] for layer in layers])
    return {name: p.to(device, dtype).requires_grad_() for name, p in params.items()}


def _gradient(loss: Any, params: Params, retain_graph: bool = False) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(params.values()), retain_graph=retain_graph))


def _combined(rule: Callable[..., Any], terms: dict[str, Tensor], params: Params, signals: Params) -> list[Tensor]:
    """Each run's gradients of the terms, weighted by the rule, which sees one run's Gram matrix and signals."""
    last = len(terms) - 1
    rows = [_gradient(term, params, retain_graph=i < last) for i, term in enumerate(terms.values())]
    weights = torch.vmap(lambda matrix, given: rule(matrix, names=tuple(terms), **given))(_grams(rows), signals)
    columns = weights[:, :, None, None].unbind(1)
    return [sum(w * t for w, t in zip(columns, tensors, strict=True)) for tensors in zip(*rows, strict=True)]


def _grams(rows: list[list[Tensor]]) -> Tensor:
    """Each run's Gram matrix, (runs, m, m); the package's own under `torch.vmap` takes six times as long here."""
    flat = [[t.flatten(1) for t in row] for row in rows]
    products = [sum(torch.linalg.vecdot(a, b) for a, b in zip(x, y, strict=True)) for x in flat for y in flat]
    return torch.stack(products, dim=1).unflatten(1, (len(rows), len(rows)))


def _descend(optimizer: torch.optim.Optimizer, params: Params, directions: list[Tensor]) -> None:
    for p, direction in zip(params.values(), directions, strict=True):
        p.grad = direction
    optimizer.step()
