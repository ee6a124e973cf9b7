"""Many runs of one problem by one rule, trained side by side: one run for each pair of a seed and a learning rate.

The runs share nothing, so that the gradient of a loss summed over them holds each run's own, and a rule sees one Gram
matrix for each through `torch.vmap`. Initial networks and batches depend on the seed only, neither on the rule nor on
the runs beside it: methods are compared over paired seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.studies.helps.networks import Player
from gradweight.rule import Rule, Signals, StatefulRule

__all__ = ["Problem", "train"]

Tensors = Sequence[Tensor]


class Problem(Protocol):
    """What is trained: networks, batches, named losses whose gradients are weighed, and one score."""

    name: str
    losses: tuple[str, ...]
    steps: int
    rate: float
    """The learning rate in the middle of the grid."""
    emphasis: tuple[dict[str, float], ...]
    """Three sets of fixed weights that a user would try; a loss that is not named has weight 1."""
    extra: dict[str, Rule]
    """A rule made for this kind of problem."""
    betas: tuple[float, float]
    trivial: float
    """The score of an answer that needs no training, which a run that diverged is given."""

    def networks(self, random: torch.Generator) -> tuple[Tensors, Tensors]:
        """The parameters of one run: those that the weighed losses train, and an opponent's (or none)."""

    def batches(self, random: torch.Generator, count: int) -> Tensors:
        """``count`` batches of one run, each tensor (count, ...)."""

    def terms(self, params: Tensors, opponent: Tensors, batch: Tensors) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Each loss, (runs,), in the order of their names, and signals, (runs,)."""

    def opponent_loss(self, params: Tensors, opponent: Tensors, batch: Tensors) -> Tensor:
        """What the opponent minimises, (runs,)."""

    def parts(self, params: Tensors, opponent: Tensors) -> dict[str, Tensor]:
        """The errors on data that was not trained on, (runs,) each, whose geometric mean is the score."""


@dataclass
class Weigher:
    """A rule for each run: its weights, and what it remembers."""

    rule: Rule
    names: tuple[str, ...]
    seeds: Tensor
    state: dict[str, Tensor] | None = None

    @property
    def needs_gradients(self) -> bool:
        return getattr(self.rule, "needs_gradients", True)

    def weights(self, grams: Tensor, losses: Tensor, signals: Mapping[str, Tensor], taken: int) -> Tensor:
        """(runs, m), of Gram matrices (runs, m, m) and losses (runs, m)."""
        # draws are a function of the step: other numbers in each run, the same for a seed in any ensemble
        given = {**signals, "losses": losses, "step": taken + 1_000_000 * self.seeds}
        declared = Signals.of(self.rule)
        own = declared.select(given)
        names = declared.select({"names": self.names})
        if isinstance(self.rule, StatefulRule):
            rule = self.rule
            if self.state is None:
                self.state = torch.vmap(rule.init)(grams)
            weights, self.state = torch.vmap(lambda g, s, k: rule.update(g, s, **names, **k))(grams, self.state, own)
            return weights
        call: Callable[..., Any] = self.rule  # type: ignore[assignment]
        return torch.vmap(lambda g, k: call(g, **names, **k))(grams, own)


def direction(
    player: Player, weigher: Weigher, terms: list[Tensor], signals: Mapping[str, Tensor], taken: int
) -> Tensor:
    """Each run's combined gradient, (runs, k): one backward for a rule that goes by losses, one for each loss else."""
    losses = torch.stack([term.detach() for term in terms], dim=1)
    if not weigher.needs_gradients:
        blind = torch.eye(len(terms)).expand(len(losses), -1, -1)
        weights = weigher.weights(blind, losses, signals, taken)
        return player.gradient(sum(w * term for w, term in zip(weights.unbind(1), terms, strict=True)))
    last = len(terms) - 1
    rows = torch.stack([player.gradient(t, retain_graph=i < last) for i, t in enumerate(terms)], dim=1)
    weights = weigher.weights(rows @ rows.mT, losses, signals, taken)
    return (weights[:, None] @ rows).squeeze(1)


def train(
    problem: Problem,
    rule: Rule,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    tick: Callable[[int], object] = lambda runs: None,
) -> list[dict[str, float]]:
    """The errors of each run in the end, and "score", their geometric mean; ``tick`` is told the runs of each step."""
    torch.manual_seed(0)  # nothing here draws from it
    count = min(steps, 200)
    each = {seed: _made(problem, seed, count) for seed in set(seeds)}
    networks = [each[seed][0] for seed in seeds]
    batches = [torch.stack([each[seed][1][i] for seed in seeds], dim=1) for i in range(len(each[seeds[0]][1]))]
    player = Player([ours for ours, _ in networks], torch.tensor(rates))
    opponent = Player([theirs for _, theirs in networks], torch.tensor(rates)) if networks[0][1] else None
    theirs = opponent.params if opponent else []
    weigher = Weigher(rule, problem.losses, torch.tensor(seeds))
    for step in range(steps):
        batch = [b[step % count] for b in batches]
        schedule = (1 + math.cos(math.pi * step / steps)) / 2
        if opponent:
            against = opponent.gradient(problem.opponent_loss(player.params, theirs, batch))
            opponent.descend(against, schedule, problem.betas)
        terms, signals = problem.terms(player.params, theirs, batch)
        player.descend(direction(player, weigher, terms, signals, step), schedule, problem.betas)
        tick(len(seeds))
    with torch.no_grad():
        parts = problem.parts(player.params, theirs)
    return [_result(problem, {k: float(v[i]) for k, v in parts.items()}) for i in range(len(seeds))]


def _made(problem: Problem, seed: int, count: int) -> tuple[tuple[Tensors, Tensors], Tensors]:
    random = torch.Generator().manual_seed(seed)
    return problem.networks(random), problem.batches(random, count)


def _result(problem: Problem, parts: dict[str, float]) -> dict[str, float]:
    score = math.exp(sum(math.log(max(v, 1e-6)) for v in parts.values()) / len(parts))
    results = {**parts, "score": score if math.isfinite(score) else problem.trivial}
    return {name: float(f"{value:.5g}") for name, value in results.items()}  # as they are written, and read again
