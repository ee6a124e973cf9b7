"""What is compared: fixed weights, random ones, and rules; and the trials that each has for tuning."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.studies.helps.adversarial import Codec, Ring
from benchmarks.studies.helps.digits import Digits
from benchmarks.studies.helps.pinns import Burgers, Helmholtz
from benchmarks.studies.helps.training import Problem
from gradweight.rule import Rule
from gradweight.rules import DWA, FAMO, MGDA, ConFIG, Constant, NashMTL, NormBalance, PCGrad, Random, Sum, UPGrad

__all__ = ["COMMON", "FINE", "FIXED", "FULL", "PROBLEMS", "QUICK", "Scale", "Trial", "best", "methods", "trials"]

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "digits": Digits,
    "burgers": Burgers,
    "helmholtz": Helmholtz,
    "codec": Codec,
    "ring": Ring,
}

FIXED, FINE = "fixed weights", "fixed weights, 5x"
COMMON: dict[str, Rule] = {
    "Sum": Sum(),
    "Random": Random(),
    FIXED: Sum(),  # these two in name only: their trials say which
    FINE: Sum(),
    "UPGrad": UPGrad(),
    "PCGrad": PCGrad(),
    "MGDA": MGDA(),
    "NashMTL": NashMTL(),
    "ConFIG": ConFIG(),
    "NormBalance": NormBalance(),
    "FAMO": FAMO(),
    "DWA": DWA(period=25),
}
"""The methods that every problem has, rules with the settings that they come with; a problem adds one made for it."""

_CONDITIONS = (3.0, 10.0, 30.0, 100.0, 300.0)
FINER: dict[str, tuple[dict[str, float], ...]] = {
    "Digits": tuple({"image": w} for w in (0.1, 0.3, 1.0, 3.0, 10.0)),
    "Burgers": tuple({"initial": w, "boundary": w} for w in _CONDITIONS),
    "Helmholtz": tuple({"boundary": w} for w in _CONDITIONS),
    "Codec": tuple({"adversarial": w} for w in (0.003, 0.01, 0.03, 0.1, 0.3)),
    "Ring": tuple({"real": w} for w in (0.25, 0.5, 1.0, 2.0, 4.0)),
}
"""The weights of somebody who has five times as many trials as anybody else: these, at every learning rate."""


@dataclass(frozen=True)
class Scale:
    """How much is trained: seeds to tune on and to judge by, learning rates in powers of two of the middle one.

    Fixed weights have three sets for a third of the learning rates: as many trials as a rule.
    """

    folder: str
    tuning: int
    judged: int
    exponents: tuple[int, ...]
    fixed_exponents: tuple[int, ...]
    steps: int | None = None
    """In the place of the problem's own number."""

    @property
    def tuning_seeds(self) -> list[int]:
        """None of those that are judged."""
        return list(range(1000, 1000 + self.tuning))

    @property
    def judged_seeds(self) -> list[int]:
        """The same for every method."""
        return list(range(self.judged))


FULL = Scale("helps", 3, 40, tuple(range(-4, 5)), (-2, 0, 2))
QUICK = Scale("helps_quick", 2, 3, (-2, 0, 2), (0,), steps=4)


@dataclass(frozen=True)
class Trial:
    """A rule at one learning rate."""

    label: str
    rule: Rule
    rate: float


def methods(problem: Problem) -> list[str]:
    """Names of what is compared on a problem."""
    return [*COMMON, *problem.extra]


def trials(problem: Problem, method: str, scale: Scale) -> list[Trial]:
    """The settings that a method is tuned over: as many for each, but for `FINE`."""
    if method in (FIXED, FINE):
        weights, exponents = problem.emphasis, scale.fixed_exponents
        if method == FINE:
            weights, exponents = FINER[problem.name], scale.exponents
        return [
            Trial(
                f"{_written(given)}, rate {problem.rate * 2.0**e:g}",
                Constant(dict.fromkeys(problem.losses, 1.0) | given),
                problem.rate * 2.0**e,
            )
            for given in weights
            for e in exponents
        ]
    rule = (COMMON | problem.extra)[method]
    return [Trial(f"rate {problem.rate * 2.0**e:g}", rule, problem.rate * 2.0**e) for e in scale.exponents]


def _written(weights: dict[str, float]) -> str:
    return " and ".join(weights) + f" x {next(iter(weights.values())):g}"


def best(scores: dict[str, Sequence[float]]) -> str:
    """The trial of the least geometric mean of its scores."""
    return min(scores, key=lambda label: statistics.geometric_mean(scores[label]))
