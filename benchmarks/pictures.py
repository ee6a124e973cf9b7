"""What the pictures of the benchmarks share; how they look is in docs/gallery/style.mplstyle.

A README shows a picture about 830 pixels wide. All are drawn 8.3 inches wide, so that a point is a point there, with no
letter under 9 points; on an opaque light grey, which reads on a white page and on a black one; in the colours of Okabe
and Ito, which stay apart for the colour-blind. A logarithmic axis says so in its label.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.folders import ROOT

__all__ = ["BLUE", "GREEN", "GREY", "INK", "LINE", "ORANGE", "PAPER", "PURPLE", "RED", "SKY", "WIDTH"]
__all__ += ["darker", "log_axis", "name_ends", "panels", "picture", "save", "thousands"]

WIDTH = 8.3
"""Inches; at 100 pixels an inch the 830 pixels of a README."""

BLUE, SKY, GREEN, ORANGE, RED, PURPLE = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
INK, GREY, LINE, PAPER = "#222222", "#777777", "#cfcfcc", "#f7f7f5"

STYLE = rc_params_from_file(ROOT / "docs" / "gallery" / "style.mplstyle", use_default_template=False)

picture = functools.partial(plt.rc_context, STYLE)
"""``@picture()`` on a function that draws: the style holds inside, and nothing of it outside."""


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure of the full width, ``height`` inches high, and its axes, (rows, columns), with a grid behind them."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options)
    for axis in axes.flat:
        axis.grid(True)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write it, in 1.6 times as many pixels as a README shows, and close it."""
    figure.savefig(path, dpi=160)
    plt.close(figure)


def darker(colour: str) -> tuple[float, ...]:
    """The colour of a line as that of letters, which need more contrast than a line."""
    return tuple(0.72 * part for part in to_rgb(colour))


def thousands(value: float) -> str:
    """12,000 rather than 12000; 0.5 stays."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def log_axis(
    axis: Axes,
    which: str,
    label: str = "",
    ticks: Iterable[float] = (),
    text: Callable[[float], str] = thousands,
) -> None:
    """A logarithmic axis that says so in its label, with plain numbers at the ticks.

    Args:
        axis: where.
        which: "x" or "y".
        label: what is measured, and its unit; empty for none.
        ticks: where numbers stand; those outside the limits are left out, which is why limits are to be set before.
        text: what stands there.
    """
    own = getattr(axis, f"{which}axis")
    axis.set(**{f"{which}scale": "log"} | ({f"{which}label": f"{label} (log scale)"} if label else {}))
    low, high = getattr(axis, f"get_{which}lim")()
    shown = [tick for tick in ticks if low <= tick <= high]
    if shown:
        own.set_ticks(shown, [text(tick) for tick in shown])
        own.set_minor_formatter(NullFormatter())
        own.set_ticks([], minor=True)


def name_ends(axis: Axes, ends: Iterable[tuple[str, float, str]], gap: float = 13.0) -> None:
    """The name of each line beside its end, at the right edge, in its colour, pushed apart where two would overlap.

    Args:
        axis: has its final limits and scale.
        ends: name, y of the last point, colour.
        gap: points between two names.
    """
    axis.get_figure().draw_without_rendering()  # type: ignore[union-attr]
    box = axis.get_window_extent()
    step = gap / 72 * axis.get_figure().dpi / box.height  # type: ignore[union-attr]
    at = [((axis.transData.transform((1, y))[1] - box.y0) / box.height, name, colour) for name, y, colour in ends]
    at.sort(key=lambda one: one[0])
    heights: list[float] = []
    for wanted, _, _ in at:
        heights.append(max(wanted, heights[-1] + step) if heights else wanted)
    # those that were pushed beyond the top come down together, and push those below them
    limit = max(1.0, at[-1][0]) if at else 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], limit)
        limit = heights[i] - step
    for height, (_, name, colour) in zip(heights, at, strict=True):
        axis.annotate(
            name,
            (1, height),
            (5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            color=darker(colour),
            va="center",
            fontsize=9,
        )
