"""Draws the pictures again from the results that are kept; nothing is measured.

    python -m benchmarks.redraw [NAME...] [--results DIR]

NAME is a folder of benchmarks/results, or the beginning of one; without any, all are drawn. Not here: the ring of
``benchmarks.studies.ring.compare``, which has ``--draw`` of its own, and the samples of the image study, which need the
images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cost import advas, distributed, engines, losses, memory, overhead, step
from benchmarks.folders import CITED
from benchmarks.rules import many, paths, times
from benchmarks.studies import pinn
from benchmarks.studies.angles import measure
from benchmarks.studies.angles import report as angles
from benchmarks.studies.helps import figure as helps_figure
from benchmarks.studies.helps import report as helps_report
from benchmarks.studies.images import report as images
from benchmarks.studies.ring import study, study_figure, study_report
from benchmarks.studies.ring.study_runs import HALF, Setting
from benchmarks.studies.theory import draw as theory

__all__ = ["DRAWN", "redraw"]


def _results(draw: Callable[[list[dict[str, Any]], Path], None], name: str) -> Callable[[Path], None]:
    """Of a measurement of cost: one file of results, one picture."""
    return lambda folder: draw(_record(folder / f"{name}.json")["results"], folder / f"{name}.png")


def _record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _overhead(folder: Path) -> None:
    record = _record(folder / "overhead.json")
    overhead.draw(record["sizes"], record["tensors"], folder / "overhead.png")


def _rules(folder: Path) -> None:
    many.draw_many(_record(folder / "many.json")["results"], folder)
    times.draw_time(_record(folder / "time.json")["results"], folder)
    paths.draw_toy(_record(folder / "toy.json")["rules"], folder)


def _images(folder: Path) -> None:
    record = _record(folder / "images.json")
    widths, steps = record["settings"]["widths"], record["settings"]["steps"]
    rows = images.finished(images.read(folder / "runs.csv"), steps)
    images.draw(rows, record["real images"]["classifier_fid"], widths, folder / "images.png")


def _angles(folder: Path) -> None:
    for name, draw in {
        "angles": angles.draw_angles,
        "scores": angles.draw_scores,
        "grid": angles.draw_grid,
    }.items():
        draw(measure.read(folder / f"{name}.csv"), folder / f"{name}.png")


def _ring_study(setting: Setting) -> Callable[[Path], None]:
    def draw(folder: Path) -> None:
        ends = study_report.ends_of(study.read_rows(folder / "runs.csv"), setting)
        summary = study_report.summarise(ends)
        study_figure.draw(ends, summary, folder / "samples.npz", folder / "ring_study.png")

    return draw


def _ring_jax(folder: Path) -> None:
    from benchmarks.studies.ring import in_jax  # here, because JAX may not be installed

    in_jax.draw(folder)


def _theory(folder: Path) -> None:
    theory.draw_pull(folder / "pull.png")
    theory.draw_games(folder / "games.png")


DRAWN: dict[str, Callable[[Path], None]] = {
    "angles": _angles,
    "advas": _results(advas.draw, "advas"),
    "distributed": _results(distributed.draw, "distributed"),
    "engines": _results(engines.draw, "engines"),
    "helps": lambda folder: helps_figure.draw(helps_report.read(folder), folder / "helps.png"),
    "images": _images,
    "losses": _results(losses.draw, "losses"),
    "memory": _results(memory.draw, "memory"),
    "overhead": _overhead,
    "pinn": pinn.draw,
    "ring_jax": _ring_jax,
    "ring_study": _ring_study(Setting()),
    "ring_study_half": _ring_study(HALF),
    "rules": _rules,
    "theory": _theory,
    "step": _results(step.draw, "step"),
}
DRAWN |= {f"{name}/cuda": DRAWN[name] for name in ("advas", "engines", "losses", "memory", "overhead", "step")}
"""What draws the pictures of a folder, given the folder."""


def redraw(names: list[str], results: Path = CITED) -> list[str]:
    """Draw those whose folder is there and begins with one of the names, all if there is none; which they were."""
    found = [
        name
        for name in sorted(DRAWN)
        if (results / name).is_dir() and (not names or any(name.startswith(some) for some in names))
    ]
    for name in found:
        DRAWN[name](results / name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all of " + ", ".join(sorted(DRAWN)))
    parser.add_argument(
        "--results", type=Path, default=CITED, metavar="DIR", help="where they are (default: %(default)s)"
    )
    arguments = parser.parse_args()
    found = redraw(arguments.names, arguments.results)
    print("drawn: " + (", ".join(found) or "nothing"))


if __name__ == "__main__":
    main()
