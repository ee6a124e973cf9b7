"""Many GANs on the ring of eight Gaussians, trained side by side: one run for each seed, in one batch of matrices.

The parameters of all runs lie stacked, (runs, ...), and the runs share nothing. So the gradient of a loss that is
summed over them holds each run's own, one backward serves all, and a rule sees one Gram matrix for each through
`torch.vmap`. What a run gets to see (its initial networks, its data and its noise) depends on its seed only: neither
on the method, so that methods are compared over paired seeds, nor on the runs beside it.

What comes out does not depend on the runs beside it either: on one CPU, blocks of two or more seeds give the same bits,
whoever else is in them (a test has it). A block of one differs by rounding, as its product of a matrix with a vector is
another routine, and so do modules with an optimizer each, which add up in another order (a test has that these agree in
float64). Within some thousand steps a GAN makes another run of such a difference.

`gradweight.func.combined_grad` under ``torch.vmap`` computes the same from functions of one run, in twice the
time on a CPU (tests/benchmarks/studies/test_ring.py has it as the reference, beside single runs through
`MultiObjectiveGradient`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from gradweight.gan import advas_penalty, probability_scores
from gradweight.gan.losses import PerSampleLoss
from gradweight.rules import AdaptiveWeights, AdvAs

MODES = torch.stack([torch.arange(8).mul(math.pi / 4).cos(), torch.arange(8).mul(math.pi / 4).sin()], dim=1)

Params = dict[str, Tensor]
Members = Sequence[tuple[nn.Sequential, nn.Sequential]]


@dataclass(frozen=True)
class Method:
    """A loss, the rule by which the discriminator weighs its two terms (None: their sum), and whether AdvAs helps.

    A method that no paper's claim rests on is aside: trained last, and on a CPU with fewer seeds.
    """

    loss: PerSampleLoss
    rule: AdaptiveWeights | None = None
    advas: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Adam:
    """How both networks are optimized."""

    learning_rate: float
    betas: tuple[float, float]


class Ensemble:
    """One run for each pair of a generator and a discriminator, all by one method and at the same step.

    The networks are perceptrons, with ReLU in the generators and LeakyReLU of `slope` in the discriminators.
    """

    def __init__(
        self,
        method: Method,
        members: Members,
        adam: Adam,
        slope: float,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.method, self.slope, self.device, self.taken = method, slope, device, 0
        self.g, self.d = (_stack(list(n), device, dtype) for n in zip(*members, strict=True))
        # the fused one rounds the last few entries of a tensor otherwise than the rest on a CPU, and which these are
        # depends on the number of runs
        fast = {"foreach": True} if device == "cpu" else {"fused": True}
        self.g_opt, self.d_opt = (
            torch.optim.Adam(list(p.values()), adam.learning_rate, betas=adam.betas, **fast) for p in (self.g, self.d)
        )

    def step(self, real: Tensor, noise: Tensor) -> None:
        """One step of the discriminator and one of the generator; real (runs, batch, 2), noise (runs, batch, n)."""
        loss, fake = self.method.loss, generate(self.g, noise)

        logits = discriminate(self.d, real, self.slope), discriminate(self.d, fake.detach(), self.slope)
        terms = _summed_over_runs(loss.discriminator, *logits)
        if self.method.rule is None:
            _descend(self.d_opt, self.d, _gradient(sum(terms.values()), self.d))
        else:
            scores = torch.vmap(probability_scores)(*(x.detach() for x in logits))
            _descend(self.d_opt, self.d, _combined(self.method.rule, terms, self.d, scores))

        fake_logits = discriminate(self.d, fake, self.slope)
        terms = _summed_over_runs(loss.generator, fake_logits)
        if not self.method.advas:
            _descend(self.g_opt, self.g, _gradient(sum(terms.values()), self.g))
        else:
            # the squared norm of all the runs' gradients is the sum of theirs
            adversary = _summed_over_runs(loss.discriminator, discriminate(self.d, real, self.slope), fake_logits)
            terms["advas"] = advas_penalty(adversary, self.d)
            _descend(self.g_opt, self.g, _combined(AdvAs(), terms, self.g, {}))
        self.taken += 1

    @torch.no_grad()
    def samples(self, noise: Tensor) -> Tensor:
        """What each generator makes of the noise vectors (n, ...) or (runs, n, ...), on the CPU: (runs, n, 2)."""
        runs = len(self.g["0.bias"])
        noise = noise.to(self.g["0.bias"]).expand(runs, *noise.shape[-2:])
        one_by_one = ({name: p[i : i + 1] for name, p in self.g.items()} for i in range(runs))
        return torch.cat([generate(params, noise[i : i + 1]) for i, params in enumerate(one_by_one)]).cpu()

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


def discriminate(params: Params, samples: Tensor, slope: float) -> Tensor:
    """The discriminators' logits, (runs, batch)."""
    return _perceptron(params, samples, lambda x: leaky_relu(x, slope)).squeeze(-1)


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


def _summed_over_runs(losses: Callable[..., dict[str, Tensor]], *logits: Tensor) -> dict[str, Tensor]:
    """The terms of each run, a mean over its own batch, and their sums over the runs."""
    return {name: term.sum() for name, term in torch.vmap(losses)(*logits).items()}


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
