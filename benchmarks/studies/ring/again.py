"""How much of a run on the ring its seed decides, and how much the last bits: the same seeds, run twice.

    python -m benchmarks.studies.ring.again [FOLDER FOLDER]

compares the ends of the same runs in two folders of `compare`: by default those that are cited and the same 40 seeds on
another machine, one by one and with an older release of torch (benchmarks/results/ring_elsewhere). If rounding decided
what a run does, the one would tell no more of the other than any seed would; if the seed did, all would be alike.
Nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.folders import CITED
from benchmarks.studies.intervals import mean_and_margin
from benchmarks.studies.ring.compare_runs import read_ends

RESAMPLES = 10_000


def agreement(first: dict[tuple[str, int], int], second: dict[tuple[str, int], int]) -> dict[str, dict[str, Any]]:
    """For each method, over the seeds of both: runs that cover as many modes, and as many as chance would have it.

    The latter is the mean over all ways to pair the seeds of the one with those of the other, and p is how often, of
    10,000 random ones, as many agree.
    """
    found = {}
    random = np.random.default_rng(0)
    for method in dict.fromkeys(m for m, _ in first):
        seeds = sorted(s for m, s in first if m == method and (m, s) in second)
        a, b = (np.array([ends[method, seed] for seed in seeds]) for ends in (first, second))
        same = int((a == b).sum())
        shuffled = [int((a == random.permutation(b)).sum()) for _ in range(RESAMPLES)]
        found[method] = {
            "seeds": len(seeds),
            "as many modes": same,
            "by chance": round(float((a[:, None] == b).mean(1).sum()), 1),
            "all eight in both, in one": [int(((a == 8) & (b == 8)).sum()), int(((a == 8) ^ (b == 8)).sum())],
            "p": round((1 + sum(x >= same for x in shuffled)) / (1 + RESAMPLES), 4),
        }
    return found


def differences(ends: dict[tuple[str, int], int]) -> tuple[float, float]:
    """Modes covered with adaptive weights minus plain, mean and margin over paired seeds."""
    seeds = [seed for method, seed in ends if method == "plain" and ("aw", seed) in ends]
    return mean_and_margin([float(ends["aw", seed] - ends["plain", seed]) for seed in seeds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[CITED / "ring", CITED / "ring_elsewhere"])
    arguments = parser.parse_args()
    first, second = (read_ends(folder / "runs.csv") for folder in arguments.folders)
    for method, entry in agreement(first, second).items():
        print(f"{method:<8}{entry}")
    for folder, ends in zip(arguments.folders, (first, second), strict=True):
        mean, margin = differences(ends)
        print(f"{folder.name:<16} aw minus plain: {mean:+.2f} [{mean - margin:+.2f}, {mean + margin:+.2f}] modes")


if __name__ == "__main__":
    main()
