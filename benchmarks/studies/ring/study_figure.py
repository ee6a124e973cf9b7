"""The figure of the ring study: rates and means by method with their intervals, and samples of one seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.pictures import BLUE, GREY, INK, RED, WIDTH, picture, save
from benchmarks.studies.ring.ensemble import MODES

GOOD, BAD = BLUE, RED
SIDE = 1.45
"""Half the side of a panel of samples."""


@picture()
def draw(ends: dict[str, dict[int, Any]], summary: dict[str, dict[str, Any]], samples: Path, path: Path) -> None:
    """One row of marks for each method, above them its samples at the end of the first seed kept."""
    games = list(dict.fromkeys(method.partition("/")[0] for method in summary))
    columns = max(sum(method.startswith(f"{game}/") for method in summary) for game in games)
    heights = [0.9 + 0.36 * len(summary), (0.45 + WIDTH / columns) * len(games) + 0.3]
    figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)
    seeds = max(entry["seeds"] for entry in summary.values())
    top.suptitle(f"After the last step, up to {seeds} seeds (95% intervals)", x=0.01, ha="left")
    _marks(top, ends, summary)
    _samples(bottom, summary, games, columns, samples)
    save(figure, path)


def _marks(figure: Any, ends: dict[str, dict[int, Any]], summary: dict[str, dict[str, Any]]) -> None:
    rates, quality, kl = figure.subplots(1, 3, sharey=True, width_ratios=[1.25, 1, 1])
    games = [method.partition("/")[0] for method in summary]
    # a gap between the games
    y = [i + 0.8 * (game != games[0]) for i, game in enumerate(games)]
    for height, (method, entry) in zip(y, summary.items(), strict=True):
        for name, colour, shift in (("success", GOOD, -0.13), ("failure", BAD, 0.13)):
            k, low, high = entry[name]
            rates.plot([low, high], [height + shift] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")
            rates.plot(k / entry["seeds"], height + shift, "o", color=colour, markersize=6)
        for name, axis in (("quality", quality), ("kl", kl)):
            values = [getattr(run, name) for run in ends[method].values()]
            axis.plot(values, [height] * len(values), "|", color=GREY, markersize=9)
            mean, low, high = entry[name]
            if not math.isnan(mean):
                axis.plot([low, high], [height] * 2, color=INK, linewidth=1.6, solid_capstyle="butt")
                axis.plot(mean, height, "o", color=INK, markersize=6)
    rates.set_yticks(y, [method.partition("/")[2] for method in summary])
    for game in dict.fromkeys(games):
        first = y[games.index(game)]
        rates.text(-0.01, first - 0.55, game, transform=rates.get_yaxis_transform(), ha="right", fontweight="bold")
    rates.set(ylim=(max(y) + 0.5, -0.9), xlim=(-0.02, 1.02))
    rates.set_title("seeds that cover\n")
    for x, text, colour in ((0, "all modes", GOOD), (0.48, "no mode", BAD)):
        rates.text(x, 1.013, text, transform=rates.transAxes, color=colour, fontweight="bold", va="bottom")
    quality.set(xlim=(-0.02, 1.02))
    quality.set_title("samples of high quality\n(| is a seed)")
    kl.set(xlim=(-0.05, math.log(8) + 0.05))
    kl.set_title("KL of the modes, nats\n(0 is even)")
    for axis in (rates, quality):
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    for axis in (rates, quality, kl):
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")


def _samples(figure: Any, summary: dict[str, Any], games: list[str], columns: int, samples: Path) -> None:
    drawn = dict(np.load(samples)) if samples.exists() else {}
    seed = min((int(key.rpartition("|")[2]) for key in drawn), default=0)
    figure.suptitle(f"Samples after the last step, seed {seed}", x=0.01, ha="left")
    axes = figure.subplots(len(games), columns, squeeze=False)
    for game, row in zip(games, axes, strict=True):
        methods = [method for method in summary if method.startswith(f"{game}/")]
        row[0].set_ylabel(game, fontweight="bold")
        for method, axis in zip(methods, row, strict=False):
            axis.set_title(method.partition("/")[2].replace(", no", ",\nno"), fontsize=9, loc="center")
            axis.scatter(*MODES.T.numpy(), s=60, facecolors="none", edgecolors="#999999", linewidths=0.8)
            found = drawn.get(f"{method.replace('/', '|')}|{seed}")
            if found is not None:
                axis.scatter(*found.astype(np.float32).T, s=4, color=GOOD, alpha=0.4, linewidths=0)
                outside = (abs(found) > SIDE).any(1).mean()
                if outside > 0.5:
                    axis.text(0, 0, f"{outside:.0%}\noutside", ha="center", va="center", color=INK)
        for axis in row:
            axis.spines[:].set_visible(True)
            axis.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), xticks=[], yticks=[], aspect="equal")
        for axis in row[len(methods) :]:
            axis.set_visible(False)
