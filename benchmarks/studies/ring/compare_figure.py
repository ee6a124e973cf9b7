"""The picture of `compare`: samples as they develop, every seed at the end, metrics over time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.studies.intervals import mean_and_margin
from benchmarks.studies.ring.compare_runs import METRICS, Run
from benchmarks.studies.ring.ensemble import MODES

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"plain": "#d1603d", "aw": "#1f6f9f", "aw-relative": "#3a9278", "aw-unnormalized": "#8a5a9e"}
INK, GREY = "#333333", "#bbbbbb"
MOST_SQUARES = 12
"""Seeds that have a picture of their own; more are counted."""


def draw(runs: list[Run], methods: list[str], path: Path) -> None:
    """The picture: the first seed over time for each method, every seed at the end, and the metrics over time."""
    methods = [m for m in methods if any(r.method == m for r in runs)]
    by_key = {(r.method, r.seed): r for r in runs}
    seeds = sorted({r.seed for r in runs})
    first = min((s for s in seeds if all((m, s) in by_key for m in methods)), default=seeds[0])
    shown = sorted(runs[0].samples)

    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.edgecolor": GREY})
    # square panels that fill the width, unless the seeds are few
    squares = 11.6 / max(len(seeds), len(shown)) * len(methods)
    heights = [0.5 + 11.6 / len(shown) * len(methods), 0.5 + (squares if len(seeds) <= MOST_SQUARES else 2.2), 2.75]
    figure = plt.figure(figsize=(12, sum(heights)), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)

    top.suptitle(f"Samples as training goes on, seed {first} (rings: the eight modes)", fontsize=12, x=0.01, ha="left")
    for row, axes in zip(methods, top.subplots(len(methods), len(shown), squeeze=False), strict=True):
        for step, axis in zip(shown, axes, strict=True):
            panel(axis, by_key.get((row, first)), step, size=5)
            if row == methods[0]:
                axis.set_title(f"{step:,} steps", fontsize=10, color=INK)
        axes[0].set_ylabel(row, fontsize=12, color=COLOURS[row], fontweight="bold")

    if len(seeds) <= MOST_SQUARES:
        every_seed(middle, by_key, methods, seeds, shown[-1])
    else:
        how_many_seeds(middle, runs, methods, len(seeds))

    bottom.suptitle("Over all seeds: mean, and its 95% interval", fontsize=12, x=0.01, ha="left")
    for (name, title), axis in zip(METRICS.items(), bottom.subplots(1, len(METRICS)), strict=True):
        for method in methods:
            own = [r for r in runs if r.method == method]
            steps = own[0].steps
            values = [mean_and_margin([float(getattr(r, name)[i]) for r in own]) for i in range(len(steps))]
            mean, margin = np.array(values).T
            axis.plot(steps, mean, color=COLOURS[method], label=method, linewidth=1.8)
            axis.fill_between(steps, mean - margin, mean + margin, color=COLOURS[method], alpha=0.15, linewidth=0)
        low, high = {"modes": (0, 8.2), "quality": (0, 1), "kl": (0, math.log(8))}[name]
        axis.set(title=title, xlabel="steps", ylim=(low, high), xlim=(0, shown[-1]))
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GREY, alpha=0.35, linewidth=0.5)
        if name == "quality":
            axis.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    bottom.axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def every_seed(figure: Any, runs: dict[tuple[str, int], Run], methods: list[str], seeds: list[int], step: int) -> None:
    """A square of samples for each seed, with the number of modes that it covers."""
    figure.suptitle("Every seed at the end, with the modes that it covers", fontsize=12, x=0.01, ha="left")
    for row, axes in zip(methods, figure.subplots(len(methods), len(seeds), squeeze=False), strict=True):
        for seed, axis in zip(seeds, axes, strict=True):
            found = runs.get((row, seed))
            panel(axis, found, step, size=2)
            if found is not None:
                axis.text(0, 0, f"{found.modes[-1]}", ha="center", va="center", fontsize=12, color=INK)
            if row == methods[-1]:
                axis.set_xlabel(f"seed {seed}", fontsize=9, color=INK)
        axes[0].set_ylabel(row, fontsize=10, color=COLOURS[row], fontweight="bold")


def how_many_seeds(figure: Any, runs: list[Run], methods: list[str], seeds: int) -> None:
    """Bars: how many seeds cover so many modes at the end."""
    figure.suptitle(f"How many of {seeds} seeds cover so many of the modes at the end", fontsize=12, x=0.01, ha="left")
    axis = figure.subplots()
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        counts = [sum(r.modes[-1] == n for r in runs if r.method == method) for n in range(len(MODES) + 1)]
        places = [n + (i - (len(methods) - 1) / 2) * width for n in range(len(counts))]
        bars = axis.bar(places, counts, width, color=COLOURS[method], label=method)
        axis.bar_label(bars, [str(n) if n else "" for n in counts], fontsize=10, color=INK)
    axis.set(xticks=range(len(MODES) + 1), xlabel="modes covered", ylabel="seeds")
    axis.margins(y=0.12)
    axis.legend(frameon=False, loc="upper center")
    axis.spines[["top", "right"]].set_visible(False)


def panel(axis: Any, found: Run | None, step: int, size: float) -> None:
    """One square of samples, over rings where the modes are."""
    axis.scatter(*MODES.T.numpy(), s=22 * size, facecolors="none", edgecolors="#999999", linewidths=0.8, zorder=1)
    if found is not None:
        x, y = found.samples[step].T
        axis.scatter(x, y, s=size, color=COLOURS[found.method], alpha=0.35, linewidths=0, zorder=2)
    axis.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), xticks=[], yticks=[], aspect="equal")
