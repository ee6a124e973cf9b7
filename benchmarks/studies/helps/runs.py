"""The runs of a problem, kept in one file as they are made."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.studies.helps.methods import Scale
from benchmarks.studies.helps.training import Problem

__all__ = ["JUDGED", "TUNING", "Run", "Runs", "read_runs"]

TUNING, JUDGED = "tuning", "judged"


@dataclass(frozen=True)
class Run:
    """A method at one of its trials with one seed: its errors, and their geometric mean."""

    method: str
    stage: str
    trial: str
    seed: int
    score: float
    errors: dict[str, float]


class Runs:
    """``NAME.csv`` with the runs of a problem, and ``NAME.json`` with its setting and the machine."""

    def __init__(self, out: Path, name: str, problem: Problem, scale: Scale, machine: dict[str, Any]) -> None:
        self.path = out / f"{name}.csv"
        record = out / f"{name}.json"
        setting = json.loads(json.dumps(_setting(problem, scale)))
        if record.exists() and json.loads(record.read_text())["setting"] != setting:
            raise SystemExit(f"{out} holds runs of another setting, see {record.name} there: choose another --out")
        if not record.exists():
            record.write_text(json.dumps({"machine": machine, "setting": setting}, indent=1) + "\n")
        self.runs = read_runs(self.path) if self.path.exists() else []

    def has(self, method: str, stage: str) -> bool:
        """Whether a method's runs of a stage are there: they come all at once."""
        return any((run.method, run.stage) == (method, stage) for run in self.runs)

    def scores(self, method: str, stage: str) -> dict[str, list[float]]:
        """By trial, the scores of its seeds."""
        scores: dict[str, list[float]] = {}
        for run in self.runs:
            if (run.method, run.stage) == (method, stage):
                scores.setdefault(run.trial, []).append(run.score)
        return scores

    def add(self, made: Sequence[Run]) -> None:
        """Keep these too, and write all."""
        self.runs += made
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["method", "stage", "trial", "seed", "score", *self.runs[0].errors])
            for run in self.runs:
                errors = (f"{error:.5g}" for error in run.errors.values())
                writer.writerow([run.method, run.stage, run.trial, run.seed, f"{run.score:.5g}", *errors])
        part.replace(self.path)  # whole or not at all


def read_runs(path: Path) -> list[Run]:
    """The runs in a file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Run(
            row.pop("method"),
            row.pop("stage"),
            row.pop("trial"),
            int(row.pop("seed")),
            float(row.pop("score")),
            {name: float(error) for name, error in row.items()},
        )
        for row in rows
    ]


def _setting(problem: Problem, scale: Scale) -> dict[str, Any]:
    fields = asdict(problem)  # type: ignore[call-overload]
    fields["extra"] = {name: repr(rule) for name, rule in problem.extra.items()}
    return {**fields, "scale": asdict(scale)}
