"""Three tasks of one trunk: two overlapping digits to be told, and the image to be drawn again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad, relu

from benchmarks.studies.helps.networks import initial, perceptron
from gradweight.rule import Rule
from gradweight.rules import Uncertainty

__all__ = ["Digits"]

BATCH, HIDDEN, PIXELS = 32, 24, 8 * 12
TRAIN = 1347
"""Of scikit-learn's 1797 digits; the pairs to test with are made of the others."""


@functools.cache
def _digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images on the left and on the right of a canvas, (1797, 96) each, and the digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit("the digits are scikit-learn's: pip install scikit-learn, or leave them out") from error
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32)[order] / 16
    left, right = (pad(images, sides).flatten(1) for sides in ((0, 4), (4, 0)))
    return left, right, torch.tensor(data.target)[order]


@dataclass
class Digits:
    """Two digits of 8 x 8 pixels, four columns of which overlap, on a canvas of 8 x 12."""

    name: str = "Digits"
    losses: tuple[str, ...] = ("left", "right", "image")
    steps: int = 400
    rate: float = 4e-3
    emphasis: tuple[dict[str, float], ...] = ({"image": 1.0}, {"image": 0.1}, {"image": 10.0})
    betas: tuple[float, float] = (0.9, 0.999)
    trivial: float = 0.45
    extra: dict[str, Rule] = field(default_factory=lambda: {"Uncertainty": Uncertainty()})

    def networks(self, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """One hidden layer, and the answers to all three tasks; no opponent."""
        return initial((PIXELS, HIDDEN, 10 + 10 + PIXELS), random, gain=2**0.5), []

    def batches(self, random: torch.Generator, count: int) -> list[Tensor]:
        """Which digits are drawn, on the left and on the right."""
        return [torch.randint(TRAIN, (count, 2, BATCH), generator=random)]

    def terms(
        self, params: Sequence[Tensor], opponent: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Cross entropies of both digits, and the mean squared error of the image."""
        x, left, right = self._pairs(batch[0][:, 0], batch[0][:, 1])
        *logits, image = perceptron(params, x, relu).split([10, 10, PIXELS], -1)
        entropies = [
            cross_entropy(z.mT, digit, reduction="none").mean(1) for z, digit in zip(logits, (left, right), strict=True)
        ]
        return [*entropies, (image - x).square().mean((1, 2))], {}

    def parts(self, params: Sequence[Tensor], opponent: Sequence[Tensor]) -> dict[str, Tensor]:
        """Shares of 1000 pairs that are told wrong, and the root mean squared error of the image."""
        others = len(_digits()[2]) - TRAIN
        pairs = TRAIN + torch.randint(others, (2, 1000), generator=torch.Generator().manual_seed(1))
        x, left, right = self._pairs(pairs[0][None], pairs[1][None])
        *logits, image = perceptron(params, x.expand(len(params[0]), -1, -1), relu).split([10, 10, PIXELS], -1)
        wrong = [(z.argmax(-1) != digit).float().mean(1) for z, digit in zip(logits, (left, right), strict=True)]
        return {
            "left wrong": wrong[0],
            "right wrong": wrong[1],
            "image": (image - x).square().mean((1, 2)).sqrt(),
        }

    def opponent_loss(self, params: Sequence[Tensor], opponent: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
        """There is none."""
        raise NotImplementedError("the digits have no opponent")

    def _pairs(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right, digit = _digits()
        return torch.maximum(left[i], right[j]), digit[i], digit[j]
