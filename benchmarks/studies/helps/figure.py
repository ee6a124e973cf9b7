"""The figure of the study: each method's error over the sum's on each problem, with its interval and its seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from benchmarks.studies.helps.methods import COMMON

if TYPE_CHECKING:
    from benchmarks.studies.helps.report import Judged

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, GREY, GOOD, BAD = "#333333", "#bbbbbb", "#1f6f9f", "#d1603d"


def draw(problems: dict[str, dict[str, Judged]], path: Path) -> None:
    """A panel for each problem, a row for each method."""
    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.edgecolor": GREY})
    names = list(dict.fromkeys(name for judged in problems.values() for name in judged if name != "Sum"))
    common = [name for name in COMMON if name in names]
    rows = len(common) + (len(common) < len(names))
    figure, axes = plt.subplots(
        1, len(problems), figsize=(2 + 2.3 * len(problems), 1.3 + 0.36 * rows), layout="constrained", squeeze=False
    )
    for i, (axis, (problem, judged)) in enumerate(zip(axes[0], problems.items(), strict=True)):
        own = [name for name in judged if name not in common and name != "Sum"]
        for y, name in enumerate([*common, *own]):
            if name in judged:
                _row(axis, y, judged, name)
        for name in own:
            axis.text(0.02, len(common) - 0.42, name, transform=axis.get_yaxis_transform(), fontsize=8, color=INK)
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set(xscale="log", ylim=(rows - 0.4, -0.6))
        low, high = axis.get_xlim()
        numbers = (0.1, 1, 10, 100) if high > 30 * low else (0.1, 0.2, 0.5, 1, 2, 5, 10)
        ticks = [t for t in numbers if low <= t <= high]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        axis.set_yticks(
            range(rows), ([*common, "made for it:"] if rows > len(common) else common) if i == 0 else [""] * rows
        )
        axis.set_title(problem, loc="left", fontsize=11, fontweight="bold")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color=GREY, alpha=0.35, linewidth=0.5)
    figure.suptitle(
        "error over that of the tuned sum, same seeds: mean and 95% interval (left of 1 is better; filled if clear)",
        x=0.01, ha="left", fontsize=10,
    )  # fmt: skip
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _row(axis: plt.Axes, y: float, judged: dict[str, Judged], name: str) -> None:
    one = judged[name]
    compared = one.to.get("Sum")
    if compared is None:
        return
    ratios = [ours / theirs for ours, theirs in zip(one.scores, judged["Sum"].scores, strict=False)]
    axis.plot(ratios, [y] * len(ratios), "|", color=GREY, markersize=7, alpha=0.7, zorder=1)
    colour = {1: GOOD, 0: INK, -1: BAD}[compared.clear]
    axis.plot([compared.low, compared.high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    fill = colour if compared.clear else "white"
    axis.plot(compared.ratio, y, "o", color=colour, markerfacecolor=fill, markersize=6, zorder=3)
