"""The pictures as a README shows them, 830 pixels wide: what a person has to be able to read is drawn so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks import pictures
from benchmarks.folders import CITED
from benchmarks.redraw import DRAWN, redraw

CHEAP = ("memory",)
KEPT = [name for name in DRAWN if (CITED / name).is_dir() and not name.endswith("/cuda")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Every figure that would be written, laid out and still open when the test looks; pixels take longest."""
    from matplotlib import pyplot as plt

    figures: list[Figure] = []
    close = plt.close

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        figure.draw_without_rendering()

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setattr(plt, "close", lambda *_: None)
    yield figures
    close("all")


def texts(figure: Figure) -> list[Text]:
    """All that is shown; labels of ticks beyond the limits are not."""
    shown = figure.findobj(Text)
    ticks = {
        tick
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for one in axis.get_major_ticks() + axis.get_minor_ticks()
        for tick in (one.label1, one.label2)
        if not axis.get_view_interval().min() <= one.get_loc() <= axis.get_view_interval().max()
    }
    return [text for text in shown if text.get_visible() and text.get_text().strip() and text not in ticks]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in CHEAP else pytest.mark.slow) for n in KEPT])
def test_every_picture_can_be_read(name: str, drawn: list[Figure], tmp_path: Path) -> None:
    if name == "ring_jax":
        pytest.importorskip("jax")
        pytest.importorskip("optax")
    shutil.copytree(CITED / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
    assert name in redraw([name], tmp_path)
    assert drawn
    for figure in drawn:
        assert figure.get_figwidth() <= pictures.WIDTH
        small = {text.get_text() for text in texts(figure) if text.get_fontsize() < 9}
        assert not small
        outside = []
        for text in texts(figure):
            box = text.get_window_extent()
            # a pixel for the rounding of the layout
            if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.width + 1 or box.y1 > figure.bbox.height + 1:
                outside.append(text.get_text())
        assert not outside
        for which in "xy":
            axes = [axis for axis in figure.axes if getattr(axis, f"get_{which}scale")() in ("log", "symlog")]
            common = getattr(figure, f"get_sup{which}label")()
            labels = {getattr(axis, f"get_{which}label")() for axis in axes} | {common}
            assert not axes or any("log scale" in label for label in labels)
        assert figure.get_facecolor()[3] == 1  # opaque: it reads on a black page, too


def test_names_at_the_ends_of_lines_keep_their_distance(tmp_path: Path) -> None:
    with pictures.picture():
        figure, axes = pictures.panels(1, 1, 3)
        axes[0, 0].set(ylim=(0, 1))
        pictures.name_ends(axes[0, 0], [("a", 0.99, "#000000"), ("b", 0.985, "#000000"), ("c", 1.0, "#000000")])
        figure.draw_without_rendering()
        boxes = sorted((text.get_window_extent() for text in axes[0, 0].texts), key=lambda box: box.y0)
        assert [text.get_text() for text in sorted(axes[0, 0].texts, key=lambda t: t.xy[1])] == ["b", "a", "c"]
        assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))
        assert axes[0, 0].texts[-1].xy[1] <= 1  # pushed down, not beyond the top
        pictures.save(figure, tmp_path / "ends.png")


def test_the_style_stays_inside() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with pictures.picture():
        assert matplotlib.rcParams["font.size"] >= 9
    assert dict(matplotlib.rcParams) == before
