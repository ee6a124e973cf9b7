"""The figure of the study: each method's error over the sum's on each problem, with its interval and its seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from benchmarks.pictures import BLUE, GREY, INK, LINE, PAPER, RED, log_axis, panels, picture, save
from benchmarks.studies.helps.methods import COMMON

if TYPE_CHECKING:
    from benchmarks.studies.helps.report import Judged

COLOURS = {1: BLUE, 0: INK, -1: RED}
"""Of what is clearly better, not clear, clearly worse."""


@picture()
def draw(problems: dict[str, dict[str, Judged]], path: Path) -> None:
    """A panel for each problem, a row for each method."""
    names = list(dict.fromkeys(name for judged in problems.values() for name in judged if name != "Sum"))
    common = [name for name in COMMON if name in names]
    rows = len(common) + (len(common) < len(names))
    figure, axes = panels(1, len(problems), 1.5 + 0.33 * rows, sharey=True)
    for axis, (problem, judged) in zip(axes[0], problems.items(), strict=True):
        own = [name for name in judged if name not in common and name != "Sum"]
        for y, name in enumerate([*common, *own]):
            if name in judged:
                _row(axis, y, judged, name)
        for name in own:
            across = axis.get_yaxis_transform()
            text = axis.text(0.5, len(common) + 0.75, name, transform=across, ha="center", fontsize=9)
            text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 1})
        axis.axvline(1, color=GREY, linewidth=1)
        low, high = axis.get_xlim()
        axis.set_xlim(low, high)
        log_axis(axis, "x", ticks=(0.1, 1, 10, 100) if high > 30 * low else (0.1, 0.2, 0.5, 1, 2, 5))
        axis.set(title=problem, ylim=(rows + 0.1, -0.6))
        axis.grid(False, axis="y")
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(range(rows), [*common, "made for it:"][:rows])
    figure.supxlabel("error over that of the tuned sum, the same seeds (log scale)", fontsize=9)
    figure.suptitle(
        "Left of 1 is better. Dots: mean and 95% interval over 40 seeds, filled where it is clear", fontsize=10
    )
    save(figure, path)


def _row(axis: Axes, y: float, judged: dict[str, Judged], name: str) -> None:
    one = judged[name]
    compared = one.to.get("Sum")
    if compared is None:
        return
    ratios = [ours / theirs for ours, theirs in zip(one.scores, judged["Sum"].scores, strict=False)]
    axis.set_xscale("log")
    axis.plot(ratios, [y] * len(ratios), "|", color=LINE, markersize=7, zorder=1)
    colour = COLOURS[compared.clear]
    axis.plot([compared.low, compared.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    fill = colour if compared.clear else "white"
    axis.plot(compared.ratio, y, "o", color=colour, markerfacecolor=fill, markersize=5, zorder=3)
