"""What came out of the image study: its rows, the table, the curves and the picture of samples."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.pictures import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED, WIDTH, darker, panels, picture, save
from benchmarks.studies.images.classifier import METRICS
from benchmarks.studies.images.datasets import Images
from benchmarks.studies.images.training import METHODS
from benchmarks.studies.intervals import mean_and_margin

COLOURS = dict(zip(METHODS, [GREY, BLUE, RED, GREEN, PURPLE, ORANGE], strict=True))
LABELS = {"dcgan": "DCGAN", "sngan": "SN-GAN"}
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of runs.csv with numbers as numbers."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {
                k: v if k in ("network", "method") else int(v) if k in ("seed", "step") else float(v)
                for k, v in r.items()
            }
            for r in csv.DictReader(file)
        ]


def finished(rows: list[Row], steps: dict[str, int]) -> list[Row]:
    """The rows of the runs that have reached their last step."""
    ends = {(r["network"], r["method"], r["seed"]) for r in rows if r["step"] == steps[r["network"]]}
    return [r for r in rows if (r["network"], r["method"], r["seed"]) in ends]


def summarise(rows: list[Row], steps: dict[str, int]) -> dict[str, Any]:
    """Mean and 95% margin at the last step, and of the difference to plain over paired seeds, by network and method."""
    summary: dict[str, Any] = {}
    for network in dict.fromkeys(r["network"] for r in rows):
        last = [r for r in rows if r["network"] == network and r["step"] == steps[network]]
        plain = {r["seed"]: r for r in last if r["method"] == "plain"}
        for method in [m for m in METHODS if any(r["method"] == m for r in last)]:
            own = {r["seed"]: r for r in last if r["method"] == method}
            entry: dict[str, Any] = {"seeds": sorted(own)}
            entry["seconds per generator step"] = round(
                statistics.median(r["seconds"] for r in own.values()) / steps[network], 5
            )
            for name in METRICS:
                entry[name] = mean_and_margin([r[name] for r in own.values()])
            paired = [s for s in sorted(own) if s in plain]
            if method != "plain" and paired:
                entry["minus plain"] = {
                    name: mean_and_margin([own[s][name] - plain[s][name] for s in paired]) for name in METRICS
                }
            summary.setdefault(LABELS[network], {})[method] = entry
    return summary


def report(summary: dict[str, Any], floor: dict[str, float]) -> str:
    """The table, in Markdown, and what can be said about the differences."""
    lines = [
        "| network | method | seeds | " + " | ".join(METRICS.values()) + " | s per generator step |",
        "|" + " --- |" * (len(METRICS) + 4),
    ]
    for network, methods in summary.items():
        for method, entry in methods.items():
            cells = ["{:.3g} ± {:.2g}".format(*entry[name]) for name in METRICS]
            lines.append(
                f"| {network} | {method} | {len(entry['seeds'])} | {' | '.join(cells)} "
                f"| {entry['seconds per generator step']:.3g} |"
            )
    lines.append(f"| real images | | | {' | '.join(f'{floor[name]:.3g}' for name in METRICS)} | |")
    for network, methods in summary.items():
        for method, entry in methods.items():
            if "minus plain" in entry:
                mean, margin = entry["minus plain"]["classifier_fid"]
                verdict = "no clear difference" if not abs(mean) > margin else "lower" if mean < 0 else "higher"
                lines.append(
                    f"{network}, {method} minus plain over {len(entry['seeds'])} paired seeds: classifier-FID "
                    f"{mean:+.3g} [{mean - margin:+.3g}, {mean + margin:+.3g}], {verdict}"
                )
    return "\n".join(lines)


@picture()
def draw(rows: list[Row], floor: float, widths: dict[str, int], path: Path) -> None:
    """classifier-FID over generator steps and over training time, one row a network."""
    shown = [n for n in LABELS if any(r["network"] == n for r in rows)]
    figure, grid = panels(len(shown), 2, 0.6 + 2.9 * len(shown), sharey="row")
    unit, labels = "training time (s)", []
    for network, axes in zip(shown, grid, strict=True):
        for axis, column, label in zip(axes, ("step", "seconds"), ("generator steps", unit), strict=True):
            ends = []
            for method in METHODS:
                own = [r for r in rows if (r["network"], r["method"]) == (network, method)]
                if not own:
                    continue
                looks = sorted({r["step"] for r in own})
                x = [statistics.fmean(r[column] for r in own if r["step"] == s) for s in looks]
                values = [mean_and_margin([r["classifier_fid"] for r in own if r["step"] == s]) for s in looks]
                mean, margin = np.array(values).T
                axis.plot(x, mean, color=COLOURS[method], linewidth=1.8)
                low = np.maximum(mean - margin, mean / 4)  # an interval of few seeds may reach below zero
                axis.fill_between(x, low, mean + margin, color=COLOURS[method], alpha=0.12, linewidth=0)
                ends.append((method, x[-1], mean[-1]))
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set(xlabel=label, xlim=(0, None))
            labels.append((axis, ends))
        seeds = len({r["seed"] for r in rows if r["network"] == network})
        axes[0].set_ylabel("classifier-FID, not FID (log scale)")
        axes[0].set_title(
            f"{LABELS[network]}, width {widths[network]}: mean of {seeds} seed{'s' * (seeds > 1)}, 95% interval "
            f"(real images: {floor:.2g})",
        )
        for axis, ends in labels[-2:]:  # now that both have their range
            name_lines(axis, ends)
    save(figure, path)


def name_lines(axis: Any, ends: list[tuple[str, float, float]]) -> None:
    """Each line's name beside its end, pushed apart where they would overlap."""
    low, high = np.log10(axis.get_ylim())
    heights = [-math.inf]
    ends = sorted(ends, key=lambda e: e[2])
    for _, _, y in ends:
        heights.append(max(math.log10(y), heights[-1] + (high - low) / 14))
    down = max(heights[-1] - high, 0)
    for (method, x, _), height in zip(ends, heights[1:], strict=True):
        place = {"textcoords": "offset points", "annotation_clip": False}
        axis.annotate(method, (x, 10 ** (height - down)), (5, 0), color=darker(COLOURS[method]), va="center", **place)


@picture()
def draw_samples(out: Path, images: Images, path: Path) -> None:
    """Twelve images of the first seed for each network and method, from the same noise, under twelve real ones."""
    found = [
        (f"{LABELS[network]}\n{method}", np.load(file))
        for network in LABELS
        for method in METHODS
        if (file := out / f"samples-{network}-{method}.npy").exists()
    ]
    rows = [("real", images.test[:12].numpy()), *found]
    figure, axes = plt.subplots(len(rows), 1, figsize=(WIDTH, 0.75 * len(rows)), layout="constrained", squeeze=False)
    for (name, pictures), axis in zip(rows, axes[:, 0], strict=True):
        strip = np.concatenate(list(pictures), axis=2).transpose(1, 2, 0)
        axis.imshow(strip.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", color=INK)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    save(figure, path)
