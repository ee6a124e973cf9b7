"""Three papers' claims on a ring of eight Gaussians: plain, adaptive weights, AdvAs and (alpha_D, alpha_G)-GANs.

    python -m benchmarks.studies.ring.study --half

trains every method from the same networks on the same data, for several seeds, and writes to
build/ring_study_half/ the metrics of every run over time (runs.csv, as it goes), some samples of the first
seeds (samples.npz), rates, means and claims with their intervals (study.json) and the figure (ring_study.png). The
same with `--cite` goes on from benchmarks/results/, and when it has finished, its results take the place of those there
and its tables go into docs/reproduced.md, between the marks that name this script. What was stopped goes on where it
was when the same command is given; `--report` makes tables and figure from what there is.

`--half` is a setting for an hour of a CPU core: networks of half the paper's width, five times its learning rate,
10,000 steps, 16 seeds. The default has a quarter of the width and takes half an hour. `--full` is the setting of the
(alpha_D, alpha_G) paper: 156,000 steps, 200 seeds; for a GPU (`--device cuda`), as a seed of one method takes about
51 minutes of a CPU core. `--quick` only shows that the script works.

A run is a success if its 25,000 samples cover all eight modes after the last step, a failure if they cover none; a
mode is covered by one sample within three standard deviations. That is the definition of the (alpha_D, alpha_G)
paper, and it takes one sample in 25,000: so the share of samples that are near any mode, and how evenly they are
spread over the modes, stand beside it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.folders import ROOT, add_output_arguments, output_folder, publish, working_folder
from benchmarks.record import machine_record
from benchmarks.studies.ring.ensemble import MODES
from benchmarks.studies.ring.study_report import write_report
from benchmarks.studies.ring.study_runs import (
    HALF,
    METHODS,
    PAPER,
    QUICK,
    STD,
    Setting,
    StudyEnsemble,
    test_noise,
)
from gradweight.gan import high_quality_share, mode_kl, modes_covered

HEADER = ("method", "seed", "step", "modes", "quality", "kl")
DRAWN, DRAWN_SEEDS = 400, 4
"""Samples kept of a run for the figure, and of how many seeds."""

Row = tuple[str, int, int, int, float, float]


class Results:
    """The files of a study: what has been measured, and where the ensemble that is being trained stands."""

    def __init__(self, out: Path, setting: Setting, first_seed: int = 0) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.setting, self.drawn_seeds = out, setting, range(first_seed, first_seed + DRAWN_SEEDS)
        self.csv, self.checkpoint, self.drawn = out / "runs.csv", out / "checkpoint.pt", out / "samples.npz"
        record = out / "setting.json"
        if record.exists() and json.loads(record.read_text()) != dataclasses.asdict(setting):
            raise SystemExit(f"{out} holds runs of another setting, see {record.name} there: choose another --out")
        record.write_text(json.dumps(dataclasses.asdict(setting), indent=1) + "\n")
        self.rows = read_rows(self.csv) if self.csv.exists() else []

    def finished(self) -> set[tuple[str, int]]:
        """The method and the seed of every run that has taken its last step."""
        return {row[:2] for row in self.rows if row[2] == self.setting.steps}

    def add(self, method: str, ensemble: StudyEnsemble) -> None:
        """Measure all runs of an ensemble, and save where it stands."""
        samples = ensemble.samples(test_noise(self.setting))
        measured = modes_covered(samples, MODES, STD), high_quality_share(samples, MODES, STD), mode_kl(samples, MODES)
        for seed, modes, quality, kl in zip(ensemble.seeds, *(m.tolist() for m in measured), strict=True):
            self.rows.append((method, seed, ensemble.taken, modes, round(quality, 5), round(kl, 4)))
        if ensemble.taken == self.setting.steps:
            self._keep(method, ensemble.seeds, samples)
        torch.save({"method": method, "seeds": ensemble.seeds, "state": ensemble.state_dict()}, self.checkpoint)
        self._write()

    def resume(self, method: str, seeds: list[int], ensemble: StudyEnsemble) -> None:
        """Go on with the ensemble that was being trained, if it is this one; else forget what it had measured."""
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, weights_only=True, map_location=ensemble.device)
            if (saved["method"], saved["seeds"]) == (method, seeds):
                ensemble.load_state_dict(saved["state"])
        self.rows = [r for r in self.rows if r[0] != method or r[1] not in seeds or r[2] <= ensemble.taken]

    def _keep(self, method: str, seeds: list[int], samples: torch.Tensor) -> None:
        drawn = dict(np.load(self.drawn)) if self.drawn.exists() else {}
        drawn |= {
            f"{method.replace('/', '|')}|{seed}": x[:DRAWN].numpy().astype(np.float16)
            for seed, x in zip(seeds, samples, strict=True)
            if seed in self.drawn_seeds
        }
        np.savez_compressed(self.drawn, **drawn)

    def _write(self) -> None:
        part = self.csv.with_suffix(".part")
        with part.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *sorted(self.rows)])
        part.replace(self.csv)  # whole or not at all


def read_rows(path: Path) -> list[Row]:
    """The rows of a runs.csv."""
    with path.open(newline="") as file:
        return [
            (r["method"], int(r["seed"]), int(r["step"]), int(r["modes"]), float(r["quality"]), float(r["kl"]))
            for r in csv.DictReader(file)
        ]


Job = tuple[str, list[int]]


def jobs(methods: list[str], seeds: range, aside_seeds: int, side_by_side: int) -> Iterator[Job]:
    """What is trained together: a few seeds of one method after the other, so that all are equally far at any time."""
    for aside, due in ((False, seeds), (True, seeds[:aside_seeds])):
        for start in range(0, len(due), side_by_side):
            for method in methods:
                if METHODS[method].aside == aside:
                    yield method, list(due[start : start + side_by_side])


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers below 1e-38 are zero inside.

    Gradients that vanish under a saturating loss leave such moments in Adam. A CPU takes four times as long on them,
    and beside Adam's epsilon of 1e-8 they are nothing.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def train(results: Results, wanted: Iterable[Job], device: str) -> None:
    """Train and measure what `results` does not hold yet."""
    done = results.finished()
    missing = [(method, [seed for seed in block if (method, seed) not in done]) for method, block in wanted]
    total = sum(len(block) for _, block in missing) * results.setting.steps
    bar = tqdm(total=total, unit="step", unit_scale=True, desc="training", mininterval=1)
    with bar, flushed_denormals():
        for method, block in missing:
            if not block:
                continue
            start = time.process_time()
            ensemble = StudyEnsemble(METHODS[method], block, results.setting, device)
            results.resume(method, block, ensemble)
            bar.update(len(block) * ensemble.taken)
            for taken in ensemble.train():
                bar.update(len(block))
                if taken in results.setting.moments:
                    results.add(method, ensemble)
            results.checkpoint.unlink(missing_ok=True)
            ends = [row for row in results.rows if row[0] == method and row[1] in block and row[2] == taken]
            bar.write(
                f"{method:<38} seeds {block[0]}-{block[-1]}: modes {[row[3] for row in ends]}, "
                f"quality {np.mean([row[4] for row in ends]):.0%}, {time.process_time() - start:.0f} CPU s"
            )


@dataclasses.dataclass(frozen=True)
class Scale:
    """A setting, where its results go, and how many seeds it takes."""

    folder: str
    setting: Setting
    seeds: int
    aside_seeds: int
    side_by_side: int


CPU = Scale("ring_study", Setting(), 16, 8, 8)
HALF_WIDTH = Scale("ring_study_half", HALF, 16, 8, 4)
FULL = Scale("ring_study_full", PAPER, 200, 200, 200)
TINY = Scale("ring_study_quick", QUICK, 2, 2, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--half", action="store_true", help="networks of half the paper's width: three times as long")
    which.add_argument("--full", action="store_true", help="the paper's setting and 200 seeds, for a GPU")
    which.add_argument("--quick", action="store_true", help="a few steps of tiny networks")
    parser.add_argument("--seeds", type=int, help="how many for every method (default: 16; 200 if --full)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument(
        "--aside-seeds", type=int, help="for methods that no paper's claim rests on (default: 8; 200 if --full)"
    )
    parser.add_argument(
        "--side-by-side", type=int, help="seeds trained together (default: 8; 4 if --half, 200 if --full)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    add_output_arguments(parser)
    parser.add_argument("--report", action="store_true", help="train nothing, write tables and figure again")
    arguments = parser.parse_args()

    scale = FULL if arguments.full else HALF_WIDTH if arguments.half else TINY if arguments.quick else CPU
    given = {name: getattr(arguments, name) for name in ("seeds", "aside_seeds", "side_by_side")}
    scale = dataclasses.replace(scale, **{name: value for name, value in given.items() if value is not None})

    out = (output_folder if arguments.report else working_folder)(arguments, scale.folder)
    results, finished = Results(out, scale.setting, arguments.first_seed), True
    if not arguments.report:
        try:
            seeds = range(arguments.first_seed, arguments.first_seed + scale.seeds)
            wanted = jobs(arguments.methods, seeds, scale.aside_seeds, scale.side_by_side)
            train(results, wanted, arguments.device)
        except KeyboardInterrupt:
            finished = False
            print("\nstopped: the same command goes on from here")
    if any(row[2] == scale.setting.steps for row in results.rows):
        published = scale.folder in (CPU.folder, HALF_WIDTH.folder) and arguments.cite and finished
        page = ROOT / "docs" / "reproduced.md" if published else None
        machine = None if arguments.report else machine_record()
        write_report(results.out, results.rows, scale.setting, page, machine, "--half" if arguments.half else "")
        if finished and not arguments.report:
            publish(arguments, results.out, scale.folder)


if __name__ == "__main__":
    main()
