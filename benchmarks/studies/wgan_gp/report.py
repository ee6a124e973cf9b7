"""What came out of the WGAN-GP study: the table, with differences over paired seeds, and the curves."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.studies.images.classifier import METRICS
from benchmarks.studies.intervals import mean_and_margin
from benchmarks.studies.wgan_gp.training import METHODS

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = ["Row", "draw", "report", "summarise"]

Row = dict[str, Any]
LOOKS = dict(
    zip(
        METHODS,
        [("#999999", ":"), ("#777777", "--"), ("#222222", "-"), ("#d55e00", "-"), ("#e69f00", "--"), ("#0072b2", "-")],
        strict=True,
    )
)


def summarise(rows: list[Row], steps: int) -> dict[str, Any]:
    """By method: the last look, the best one, and their differences to "AdvAs" over paired seeds (mean, margin)."""

    def values(method: str) -> dict[int, dict[str, float]]:
        own = [r for r in rows if r["method"] == method]
        seeds = sorted({r["seed"] for r in own})
        last = {r["seed"]: r for r in own if r["step"] == steps}
        best = {s: min(r["classifier_fid"] for r in own if r["seed"] == s) for s in seeds}
        return {s: {"best classifier_fid": best[s], **{m: last[s][m] for m in METRICS}} for s in seeds}

    found = {method: values(method) for method in METHODS if any(r["method"] == method for r in rows)}
    summary: dict[str, Any] = {}
    for method, by_seed in found.items():
        seconds = [r["seconds"] for r in rows if r["method"] == method and r["step"] == steps]
        entry: dict[str, Any] = {
            "seeds": list(by_seed),
            "seconds per generator step": statistics.median(seconds) / steps,
        }
        for name in next(iter(by_seed.values())):
            entry[name] = mean_and_margin([one[name] for one in by_seed.values()])
        paired = sorted(by_seed.keys() & found.get("AdvAs", {}).keys())
        if method != "AdvAs" and paired:
            entry["AdvAs minus this"] = {
                name: mean_and_margin([found["AdvAs"][s][name] - by_seed[s][name] for s in paired])
                for name in ("classifier_fid", "best classifier_fid")
            }
        summary[method] = entry
    return summary


def report(summary: dict[str, Any], floor: dict[str, float]) -> str:
    """The table, in Markdown."""
    names = ["classifier_fid", "best classifier_fid", "precision", "recall"]
    lines = [
        "| method | seeds | classifier-FID | its best | precision | recall | AdvAs minus this | s per step |",
        "|" + " --- |" * 8,
    ]
    for method, entry in summary.items():
        cells = ["{:.3g} ± {:.2g}".format(*entry[name]) for name in names]
        mean, margin = entry.get("AdvAs minus this", {}).get("classifier_fid", (None, None))
        difference = "" if mean is None else f"{mean:+.3g} ± {margin:.2g}"
        seconds = f"{entry['seconds per generator step']:.3f}"
        lines.append(f"| {method} | {len(entry['seeds'])} | {' | '.join(cells)} | {difference} | {seconds} |")
    real = [f"{floor[name]:.3g}" for name in ("classifier_fid", "precision", "recall")]
    lines.append(f"| real images | | {real[0]} | | {real[1]} | {real[2]} | | |")
    return "\n".join(lines)


def draw(rows: list[Row], floor: float, path: Path) -> None:
    """classifier-FID over generator steps and over training time: the mean of the seeds, and its interval."""
    with plt.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        figure, axes = plt.subplots(1, 2, figsize=(8.3, 3.9), layout="constrained", sharey=True)
        for method in [m for m in METHODS if any(r["method"] == m for r in rows)]:
            own = [r for r in rows if r["method"] == method]
            steps = sorted({r["step"] for r in own})
            fid = np.array([mean_and_margin([r["classifier_fid"] for r in own if r["step"] == s]) for s in steps])
            seconds = [statistics.fmean(r["seconds"] for r in own if r["step"] == s) for s in steps]
            colour, line = LOOKS[method]
            for axis, x in zip(axes, (steps, seconds), strict=True):
                axis.plot(x, fid[:, 0], color=colour, ls=line, lw=1.8, label=method)
                low = np.maximum(fid[:, 0] - fid[:, 1], fid[:, 0] / 4)  # an interval of few seeds may reach below zero
                axis.fill_between(x, low, fid[:, 0] + fid[:, 1], color=colour, alpha=0.1, lw=0)
        for axis, label in zip(axes, ("generator steps", "training time (s)"), strict=True):
            axis.set(xlabel=label, yscale="log", xlim=(0, None))
            axis.axhline(floor, color="#009e73", lw=1, ls="-.", label="real images")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylabel("classifier-FID (log scale)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        figure.savefig(path, dpi=120)
        plt.close(figure)
