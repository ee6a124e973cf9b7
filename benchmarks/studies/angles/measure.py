"""The studies of gradients and scores: angles, scores after one step, and the grid of the two thresholds.

    python -m benchmarks.studies.angles.measure                # everything, about fifteen minutes of one core
    python -m benchmarks.studies.angles.measure --parts angles

Of Adaptive Weighted Discriminator (CVPR 2021, arXiv:2012.03149): sections 5.1 and 5.2 and appendix B.1, on DCGAN with
Fashion-MNIST for CIFAR-10, with batch norm in the discriminator and without. Writes, to build/angles/, a
CSV and a figure for each part as it is done, drawn as the paper draws it, and angles.json with what came out and the
machine record. Parts that are there already are not run again, and the grid goes on where it stopped; Ctrl-C stops.
With `--cite` it goes on from benchmarks/results/angles/, which is replaced when all parts are done.

**angles** (5.1, figure 4). Claim: in the first epoch the gradients of the real and of the fake loss make an obtuse
angle at every iteration, close to 180 degrees; the sum often points against one of the two; with the weights neither
happens. The hinge loss, Adam, batches of 64. The paper shows one run of 50 iterations and does not say which; here are
the first 50 of several seeds. Beside the weights as published there are those with the relative epsilon: the published
0.05 is added to weights of the size of 1/|g|, and where gradients are long, it alone decides the direction.

**scores** (5.2, figure 5). Claim: of one step from the same state on the same batch, the weighted one leaves higher
real scores (0.92 against 0.25 on average over the epoch) and a wider gap between real and fake scores (1.41 against
1.26). Scores are mean logits of the batch that was trained on. The run goes on with the plain step, and either step
starts from the plain run's state of Adam. That holds running means of squared *plain* gradients, while the weighted
gradient has a length of its own: weights of the size of 1/|g| make a longer or a shorter step, not only another
direction. So there is a third step, along the weighted gradient rescaled to the length of the plain one ("aw at its
length" in the CSV): what is left is due to the direction.

**grid** (appendix B, figure 7). Claim: the score is not too sensitive to alpha1 and alpha2, with a good region around
(0.5, 0.75). The paper has IS and FID of AutoGAN after epochs 1 and 5; here are classifier-score and classifier-FID
(`classifier.py`: not IS, not FID) of a narrow DCGAN after a fifth of the steps and after all, with the spread over
seeds beside the spread over the grid.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.folders import CITED, add_output_arguments, publish, working_folder
from benchmarks.record import machine_record
from benchmarks.studies.angles.report import (
    draw_angles,
    draw_grid,
    draw_scores,
    verdict_angles,
    verdict_grid,
    verdict_scores,
)
from benchmarks.studies.angles.runs import FULL, QUICK, Size, angles, grid, scores
from benchmarks.studies.images.classifier import Judge, trained
from benchmarks.studies.images.datasets import DATASETS, Images


@dataclass(frozen=True)
class Part:
    """One study: what it runs, given the rows that are there; how it is drawn, what it says, how many rows it has."""

    rows: Callable[[list[dict[str, Any]]], Iterator[dict[str, Any]]]
    draw: Callable[[list[dict[str, Any]], Path], None]
    verdict: Callable[[list[dict[str, Any]]], dict[str, Any]]
    total: int


def parts(images: Images, size: Size, classifier: Path) -> dict[str, Part]:
    """The three studies."""

    def on_grid(before: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        return grid(images, size, Judge(images, trained(images, classifier)), before)

    cells = len(size.alpha1) * len(size.alpha2) * size.grid_seeds
    return {
        "angles": Part(lambda _: angles(images, size), draw_angles, verdict_angles, 6 * size.seeds * size.iterations),
        "scores": Part(
            lambda _: scores(images, size), draw_scores, verdict_scores, 2 * size.seeds * size.score_iterations
        ),
        "grid": Part(on_grid, draw_grid, verdict_grid, 2 * cells),
    }


def run(name: str, part: Part, path: Path) -> None:
    """Write the rows that the part's CSV lacks, as they come."""
    rows = part.rows(read(path) if path.exists() else [])  # first: what cannot be run must not empty the file
    with path.open("w", newline="") as file:
        writer = None
        for row in tqdm(rows, total=part.total, desc=name, unit="row", mininterval=1.0):
            if writer is None:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
            file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        text, whole = ("net", "loss"), ("seed", "iteration", "step")
        return [
            {k: v if k in text else int(v) if k in whole else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = ("angles", "scores", "grid")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names), help="default: all")
    parser.add_argument("--first-seed", type=int, default=0, help="of each part (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest setting, to see that all runs")
    parser.add_argument("--data", type=Path, help="folder with the IDX files (default: Debian's)")
    judge = CITED / "images" / "classifier.pt"
    parser.add_argument("--classifier", type=Path, default=judge, help="default: that of the image study")
    add_output_arguments(parser)
    arguments = parser.parse_args(words)

    out = working_folder(arguments, "angles")
    try:
        images = DATASETS["fashion-mnist"](arguments.data)
    except FileNotFoundError as missing:
        parser.exit(2, f"angles.py: {missing}\n")
    size = replace(QUICK if arguments.quick else FULL, first_seed=arguments.first_seed)
    summary = out / "angles.json"
    record: dict[str, Any] = json.loads(summary.read_text()) if summary.exists() else {}
    if record.setdefault("size", as_read(size)) != as_read(size):
        raise SystemExit(f"{out} holds rows of another size, see {summary.name} there: choose another --out")
    summary.write_text(json.dumps(record, indent=1) + "\n")
    for name, part in parts(images, size, arguments.classifier).items():
        if name in arguments.parts:
            path = out / f"{name}.csv"
            if not path.exists() or len(read(path)) < part.total:
                try:
                    run(name, part, path)
                except KeyboardInterrupt:
                    parser.exit(130, f"\nstopped in {name}: the same command goes on\n")
                record["machine"] = machine_record()
            rows = read(path)
            part.draw(rows, out / f"{name}.png")
            record[name] = part.verdict(rows)
            print(f"{name}: {json.dumps(record[name], indent=1)}")
            record = {n: record[n] for n in ("machine", "size", *names) if n in record}
            summary.write_text(json.dumps(record, indent=1) + "\n")
    publish(arguments, out, "angles")


def as_read(size: Size) -> dict[str, Any]:
    """The size as it comes back from a JSON file, whose lists are no tuples."""
    read_back: dict[str, Any] = json.loads(json.dumps(vars(size)))
    return read_back


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
