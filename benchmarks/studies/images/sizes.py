"""How much the image study trains, and with which settings of the optimizers."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.studies.images.models import SETTINGS, Setting

__all__ = ["SIZES", "Size", "add_size_arguments", "size_of"]

OPTIONS = ("batch", "betas", "generator_batch", "decay", "average")
"""What can be asked for with any size; all but the batch is said in the record only if it was."""


@dataclass(frozen=True)
class Size:
    """How much is trained: width and generator steps of each network, Adam's rate; how often and on what to measure."""

    widths: dict[str, int]
    steps: dict[str, int]
    rate: float
    batch: int
    looks: int
    judged: int
    seeds: int
    minutes: float
    betas: tuple[float, float] | None = None
    generator_batch: int | None = None
    decay: bool = False
    average: float | None = None

    def setting(self, network: str) -> Setting:
        """How this pair of networks is trained."""
        own = replace(
            SETTINGS[network], rate=self.rate, generator_batch=self.generator_batch, decays=self.steps[network]
        )
        own = own if self.decay else replace(own, decays=None)
        return own if self.betas is None else replace(own, betas=self.betas)

    def record(self) -> dict[str, Any]:
        """What a run depends on; options that nobody asked for are left out."""
        values = {k: v for k, v in asdict(self).items() if k not in ("seeds", "minutes")}
        return {k: v for k, v in values.items() if v or k not in OPTIONS}


SIZES = {
    # two cores, ten minutes: narrow networks, which take a higher rate, and the start of the training only
    "small": Size({"dcgan": 16, "sngan": 8}, {"dcgan": 1200, "sngan": 200}, 1e-3, 32, 5, 2000, 3, math.inf),
    # the papers' discriminator widths, a GPU; stops by itself before 25 minutes are over and can be gone on with
    "full": Size({"dcgan": 64, "sngan": 128}, {"dcgan": 8000, "sngan": 3000}, 2e-4, 64, 10, 10_000, 3, 23.0),
    # for the tests
    "tiny": Size({"dcgan": 4, "sngan": 4}, {"dcgan": 4, "sngan": 2}, 1e-3, 8, 2, 16, 2, math.inf),
}


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size, and the settings of the optimizers that the papers have."""
    parser.add_argument("--setting", choices=SIZES, default="small", help="how much to train (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest setting, to see that all runs")
    parser.add_argument("--batch", type=int, help="samples in a batch of the discriminator (default: the setting's)")
    parser.add_argument("--generator-batch", type=int, help="in one of the generator (default: the same)")
    parser.add_argument("--betas", type=float, nargs=2, help="Adam's (default: the network's)")
    parser.add_argument("--decay", action="store_true", help="let the rate go down to 0, linearly over the steps")
    parser.add_argument(
        "--average", type=float, metavar="DECAY", help="take samples from a moving average of the generator's weights"
    )


def size_of(arguments: argparse.Namespace) -> Size:
    """The size that was asked for."""
    size = SIZES["tiny" if arguments.quick else arguments.setting]
    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) not in (None, False)}
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    return replace(size, **given)
