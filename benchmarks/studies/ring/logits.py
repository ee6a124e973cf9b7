"""What the discriminator says of each mode of the ring: figure 6, rows 2 and 4, of Adaptive Weighted Discriminator.

    python -m benchmarks.studies.ring.logits [--setting stable]

trains the GANs of `compare`, seed by seed the same, and at each of 25 looks takes the mean logit of 100 real points of
each mode. Writes logits.csv, a row a look, logits.png, and logits.json with the verdict and the machine record.

Section 5.3 (CVPR 2021, arXiv:2012.03149) shows one run of each. Its claim: with a plain GAN the scores of real data
stay around 0 and are uneven among the modes; with the weights they are high for all eight. So there are, over paired
seeds and averaged over the looks of a run: the mean logit over the modes, the least, the spread (largest less least),
and the share of looks at which all eight are above 0.

High is not good by itself. Where the generator has become the data, the best discriminator's logit is log(w_r / w_f)
everywhere (Theorem 1), 0 for equal weights: a high logit at a mode says that the generator is not there, or not yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, publish, working_folder
from benchmarks.record import machine_record
from benchmarks.studies.intervals import mean_and_margin, sign_test
from benchmarks.studies.ring import compare
from benchmarks.studies.ring.compare_figure import COLOURS, GREY, INK
from benchmarks.studies.ring.ensemble import MODES, Params, discriminate
from gradweight.gan import modes_covered

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POINTS, LOOKS = 100, 25


@dataclass(frozen=True)
class Look:
    """The mean logits of one discriminator at the eight modes, and how many of them its generator covers."""

    method: str
    seed: int
    step: int
    covered: int
    logits: tuple[float, ...]


MEASURES = {
    "mean": statistics.fmean,
    "least": min,
    "spread": lambda logits: max(logits) - min(logits),
    "all above 0": lambda logits: float(min(logits) > 0),
}


@torch.no_grad()
def mode_logits(params: Params, points: Tensor) -> Tensor:
    """Mean logits of points (8, n, 2) at each mode, (runs, 8)."""
    runs = len(params["0.bias"])
    logits = discriminate(params, points.flatten(0, 1).expand(runs, -1, -1), compare.SLOPE)
    return logits.unflatten(1, points.shape[:2]).mean(2)


def measure(method: str, seeds: Sequence[int], setting: compare.Setting, steps: int) -> list[Look]:
    """Train the GANs of some seeds in this process, looking at them as they go."""
    torch.set_num_threads(1)  # the ensembles are what is parallel
    random = torch.Generator().manual_seed(2_000_000)
    points = MODES[:, None] + setting.std * torch.randn(len(MODES), POINTS, 2, generator=random)
    noise = torch.randn(compare.EVALUATED, setting.noise, generator=random)
    looks, found = {math.ceil(steps * (i + 1) / LOOKS) for i in range(LOOKS)}, list[Look]()
    runs = compare.ensemble(method, seeds, setting)
    for step in compare.train(runs, seeds, setting, steps):
        if step in looks:
            for seed, logits, samples in zip(seeds, mode_logits(runs.d, points), runs.samples(noise), strict=True):
                covered = int(modes_covered(samples, MODES, setting.std))
                found.append(Look(method, seed, step, covered, tuple(logits.tolist())))
    return found


def verdict(looks: list[Look]) -> dict[str, Any]:
    """Each measure over the looks of a run, its mean over the seeds, and the difference to plain over paired seeds."""
    of_run: dict[tuple[str, int], dict[str, float]] = {}
    for method, seed in sorted({(look.method, look.seed) for look in looks}):
        own = [look.logits for look in looks if (look.method, look.seed) == (method, seed)]
        of_run[method, seed] = {name: statistics.fmean(f(logits) for logits in own) for name, f in MEASURES.items()}
    found: dict[str, Any] = {"methods": {}, "minus plain": {}}
    for method in dict.fromkeys(look.method for look in looks):
        seeds = [seed for m, seed in of_run if m == method]
        found["methods"][method] = {"seeds": seeds} | {
            name: mean_and_margin([of_run[method, seed][name] for seed in seeds]) for name in MEASURES
        }
        paired = [seed for seed in seeds if ("plain", seed) in of_run]
        if method != "plain" and paired:
            entry: dict[str, Any] = {"seeds": paired}
            for name in MEASURES:
                differences = [of_run[method, seed][name] - of_run["plain", seed][name] for seed in paired]
                higher, lower = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
                entry[name] = [*mean_and_margin(differences), higher, lower, sign_test(higher, lower)]
            found["minus plain"][method] = entry
    return found


def report(found: dict[str, Any]) -> str:
    lines = [f"{'over the looks of a run':<24}" + "".join(f"{name:>18}" for name in MEASURES)]
    for method, entry in found["methods"].items():
        cells = ["{:.2f} ± {:.2f}".format(*entry[name]) for name in MEASURES]
        lines.append(f"{method:<24}" + "".join(f"{cell:>18}" for cell in cells))
    for method, entry in found["minus plain"].items():
        lines.append(f"{method} minus plain, {len(entry['seeds'])} paired seeds")
        for name in MEASURES:
            lines.append("  {:<14}{:+.2f} ± {:.2f}, higher in {}, lower in {}, p = {:.2g}".format(name, *entry[name]))
    return "\n".join(lines)


def draw(looks: list[Look], methods: list[str], path: Path) -> None:
    """Above, the paper's rows: bars for the modes at five moments, first seed. Below, all seeds over the steps."""
    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.edgecolor": GREY})
    steps, first = sorted({look.step for look in looks}), min(look.seed for look in looks)
    shown = sorted({steps[math.ceil(len(steps) * (i + 1) / 5) - 1] for i in range(5)})
    figure = plt.figure(figsize=(12, 2.1 * len(methods) + 3.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.1 * len(methods), 3.4])

    top.suptitle(f"Mean logit at each mode, seed {first}", fontsize=12, x=0.01, ha="left")
    by_key = {(look.method, look.seed, look.step): look for look in looks}
    rows = top.subplots(len(methods), len(shown), squeeze=False, sharey=True, sharex=True)
    for method, axes in zip(methods, rows, strict=True):
        for step, axis in zip(shown, axes, strict=True):
            look = by_key[method, first, step]
            axis.bar(range(1, len(MODES) + 1), look.logits, color=COLOURS[method], width=0.75)
            axis.axhline(0, color=INK, linewidth=0.7)
            axis.set_title(f"{step:,} steps, covers {look.covered}", fontsize=9, color=INK)
            axis.set_xticks(range(1, len(MODES) + 1))
        axes[0].set_ylabel(method, fontsize=12, color=COLOURS[method], fontweight="bold")

    seeds = len({look.seed for look in looks})
    bottom.suptitle(f"Over {seeds} seeds: mean, and its 95% interval", fontsize=12, x=0.01, ha="left")
    titles = {"mean": "mean over the modes", "least": "least of the modes", "all above 0": "share of runs, all above 0"}
    for (name, title), axis in zip(titles.items(), bottom.subplots(1, len(titles)), strict=True):
        for method in methods:
            values = [
                mean_and_margin([MEASURES[name](x.logits) for x in looks if (x.method, x.step) == (method, step)])
                for step in steps
            ]
            mean, margin = (list(column) for column in zip(*values, strict=True))
            axis.plot(steps, mean, color=COLOURS[method], label=method, linewidth=1.8)
            if name != "all above 0":
                low, high = ([m + sign * d for m, d in zip(mean, margin, strict=True)] for sign in (-1, 1))
                axis.fill_between(steps, low, high, color=COLOURS[method], alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="steps", xlim=(0, steps[-1]))
        if name == "all above 0":
            axis.set_ylim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GREY, alpha=0.35, linewidth=0.5)
    bottom.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=compare.positive, default=6000, help="of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=compare.positive, default=8, help="for every method (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=100, help="the first of them (default: %(default)s)")
    parser.add_argument(
        "--methods", nargs="+", choices=compare.METHODS, default=["plain", "aw"], help="default: plain aw"
    )
    parser.add_argument("--setting", choices=compare.SETTINGS, default="unstable", help="default: %(default)s")
    parser.add_argument("--workers", type=compare.positive, default=os.cpu_count() or 1, help="processes")
    add_output_arguments(parser)
    arguments = parser.parse_args(words)
    folder = "ring_logits" if arguments.setting == "unstable" else f"ring_logits_{arguments.setting}"
    out, setting = working_folder(arguments, folder), compare.SETTINGS[arguments.setting]

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    blocks = [seeds[i : i + compare.SIDE_BY_SIDE] for i in range(0, len(seeds), compare.SIDE_BY_SIDE)]
    jobs = [(method, block, setting, arguments.steps) for block in blocks for method in arguments.methods]
    looks: list[Look] = []
    workers = min(arguments.workers, len(jobs))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for found in tqdm(pool.map(measure, *zip(*jobs, strict=True)), total=len(jobs), unit="ensemble"):
            looks += found
    with (out / "logits.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "seed", "step", "covered", *(f"mode {i + 1}" for i in range(len(MODES)))])
        writer.writerows([x.method, x.seed, x.step, x.covered, *(f"{v:.4f}" for v in x.logits)] for x in looks)
    settings = {k: getattr(arguments, k) for k in ("setting", "steps", "seeds", "first_seed", "methods")}
    record = {"machine": machine_record(), "arguments": settings, "verdict": verdict(looks)}
    (out / "logits.json").write_text(json.dumps(record, indent=1).replace("NaN", "null") + "\n")
    print(report(record["verdict"]))
    draw(looks, arguments.methods, out / "logits.png")
    publish(arguments, out, folder)


if __name__ == "__main__":
    main()
