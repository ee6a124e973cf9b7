"""What the runs of `compare` leave: metrics and samples, their summary, and the files they go into."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.folders import CITED
from benchmarks.record import machine_record
from benchmarks.studies.intervals import mean_and_margin, sign_test
from benchmarks.studies.ring.ensemble import MODES
from gradweight.gan import high_quality_share, mode_kl, modes_covered

DRAWN = 500
"""Samples shown in a panel of the picture."""


@dataclass
class Run:
    """What one training run left: metrics over time, and samples at the moments of the picture."""

    method: str
    seed: int
    std: float  # of each mode
    steps: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    samples: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0  # of the processor: what else the machine does must not count

    def look(self, step: int, samples: Tensor, keep: bool) -> None:
        """Measure samples, and keep some of them if the picture shows this moment."""
        self.steps.append(step)
        self.modes.append(int(modes_covered(samples, MODES, self.std)))
        self.quality.append(float(high_quality_share(samples, MODES, self.std)))
        self.kl.append(float(mode_kl(samples, MODES)))
        if keep:
            self.samples[step] = samples[:DRAWN].numpy()


METRICS = {"modes": "modes covered", "quality": "high quality", "kl": "KL (nats)"}


def summarise(runs: list[Run]) -> dict[str, Any]:
    """Means at the end of training with their intervals, and differences to the plain GAN over paired seeds."""
    ends = {(r.method, r.seed): {name: float(getattr(r, name)[-1]) for name in METRICS} for r in runs}
    summary: dict[str, Any] = {"methods": {}, "minus plain": {}}
    for method in dict.fromkeys(r.method for r in runs):
        own = {seed: end for (m, seed), end in ends.items() if m == method}
        entry: dict[str, Any] = {"seeds": sorted(own)}
        entry["all 8 modes"] = sum(end["modes"] == 8 for end in own.values())
        entry["CPU seconds per run"] = round(statistics.fmean(r.seconds for r in runs if r.method == method), 1)
        for name in METRICS:
            entry[name] = mean_and_margin([end[name] for end in own.values()])
        summary["methods"][method] = entry
        paired = [seed for seed in sorted(own) if ("plain", seed) in ends]
        if method != "plain" and paired:
            summary["minus plain"][method] = {"seeds": paired} | {
                name: mean_and_margin([own[s][name] - ends["plain", s][name] for s in paired]) for name in METRICS
            }
            only_ours = sum(own[s]["modes"] == 8 > ends["plain", s]["modes"] for s in paired)
            only_plain = sum(own[s]["modes"] < 8 == ends["plain", s]["modes"] for s in paired)
            summary["minus plain"][method]["all 8 modes"] = [only_ours, only_plain, sign_test(only_ours, only_plain)]
    return summary


def report(runs: list[Run], summary: dict[str, Any]) -> str:
    """The table, the result of every seed, and what can be said about the difference."""
    lines = [
        f"{'at the end of training':<24}{'seeds':>6}{'modes covered':>18}{'high quality':>18}{'KL (nats)':>16}"
        f"{'all 8':>8}{'CPU s':>8}"
    ]
    for method, entry in summary["methods"].items():
        cells = [
            "{:.2f} ± {:.2f}".format(*entry["modes"]),
            "{:.1%} ± {:.1%}".format(*entry["quality"]),
            "{:.2f} ± {:.2f}".format(*entry["kl"]),
        ]
        lines.append(
            f"{method:<24}{len(entry['seeds']):>6}{cells[0]:>18}{cells[1]:>18}{cells[2]:>16}"
            f"{entry['all 8 modes']:>8}{entry['CPU seconds per run']:>8}"
        )
    lines += ["", "modes covered by each seed (share of high-quality samples)"]
    for method, entry in summary["methods"].items():
        own = {r.seed: r for r in runs if r.method == method}
        lines.append(
            f"{method:<16}" + "".join(f"{own[s].modes[-1]:>3} ({own[s].quality[-1]:>4.0%})" for s in entry["seeds"])
        )
    for method, difference in summary["minus plain"].items():
        lines += ["", f"{method} minus plain, mean over {len(difference['seeds'])} paired seeds with 95% interval"]
        for name, title in METRICS.items():
            mean, margin = difference[name]
            better = (mean > 0) != (name == "kl")
            clear = abs(mean) > margin
            verdict = ("better" if better else "worse") if clear else "no clear difference at this number of seeds"
            lines.append(f"  {title:<16}{mean:+.2f}  [{mean - margin:+.2f}, {mean + margin:+.2f}]  {verdict}")
        only_ours, only_plain, p = difference["all 8 modes"]
        lines.append(f"  all 8 modes     only {method} {only_ours}, only plain {only_plain}, sign test p = {p:.2g}")
    return "\n".join(lines)


def read_runs(out: Path, std: float) -> list[Run]:
    """The runs that `Results` has left in a folder, with the samples that were kept."""
    samples = np.load(out / "samples.npz")
    runs: dict[tuple[str, int], Run] = {}
    with (out / "runs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = row["method"], int(row["seed"])
            run = runs.setdefault(key, Run(*key, std))
            run.steps.append(int(row["step"]))
            run.modes.append(int(row["modes"]))
            run.quality.append(float(row["quality"]))
            run.kl.append(float(row["kl"]))
    for name in samples.files:
        method, seed, step = name.split("/")
        runs[method, int(seed)].samples[int(step)] = samples[name]
    return sorted(runs.values(), key=lambda run: (run.seed, run.method != "plain"))


def kept(folder: str, methods: list[str]) -> str:
    """What is cited of the same setting, to be read beside the seeds that have just been run."""
    path = CITED / folder / "ring.json"
    if not path.exists():
        return ""
    summary = json.loads(path.read_text())["summary (mean, margin of 95%)"]
    known = {name: entry for name, entry in summary["methods"].items() if name in methods}
    seeds = next(iter(known.values()), {"seeds": []})["seeds"]
    lines = [f"beside it, the {len(seeds)} seeds that are cited (mean ± margin of 95%: modes, quality, KL; all 8):"]
    for name, entry in known.items():
        cells = ["{:.2f} ± {:.2f}".format(*entry[metric]) for metric in METRICS]
        lines.append(f"  {name:<16}{'   '.join(cells)}   {entry['all 8 modes']} of {len(entry['seeds'])}")
    return "\n".join(
        [*lines, "Few seeds scatter, and the same ones may end otherwise on another processor: judge by the many."]
    )


def read_ends(path: Path) -> dict[tuple[str, int], int]:
    """Modes covered at the end of each run in a runs.csv, by method and seed."""
    with path.open(newline="") as file:
        return {(r["method"], int(r["seed"])): int(r["modes"]) for r in csv.DictReader(file)}  # the last row stays


class Results:
    """The files of one invocation: runs.part.csv grows as runs finish, and all are put in place by `close`."""

    def __init__(self, out: Path, arguments: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.runs = out, list[Run]()
        self.part = out / "runs.part.csv"  # an earlier runs.csv stays whole until this one is
        self.record = {"machine": machine_record(), "arguments": arguments}
        self.start = time.perf_counter()
        self.append([("method", "seed", "step", *METRICS)], mode="w")

    def add(self, run: Run) -> None:
        """Take a finished run in, and write its metrics at once."""
        self.runs.append(run)
        self.append(
            (run.method, run.seed, step, modes, f"{quality:.4f}", f"{kl:.4f}")
            for step, modes, quality, kl in zip(run.steps, run.modes, run.quality, run.kl, strict=True)
        )

    def append(self, rows: Any, mode: str = "a") -> None:
        """Write rows to runs.part.csv; the file is closed again after, so that nothing is lost."""
        with self.part.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def close(self, methods: list[str], draw: Callable[[list[Run], list[str], Path], None]) -> None:
        """Print the table, write everything else; `draw` makes the picture."""
        wall = time.perf_counter() - self.start
        self.part.replace(self.out / "runs.csv")
        self.runs.sort(key=lambda r: (methods.index(r.method), r.seed))
        summary = summarise(self.runs)
        print(report(self.runs, summary))
        self.record |= {"wall seconds": round(wall, 1), "summary (mean, margin of 95%)": summary}
        # a single seed has no interval, and JSON no NaN
        (self.out / "ring.json").write_text(json.dumps(self.record, indent=1).replace("NaN", "null") + "\n")
        draw(self.runs, methods, self.out / "ring.png")
        # what the picture shows: every moment of the first seed, and the end of the others
        kept = {
            f"{r.method}/{r.seed}/{step}": samples.astype(np.float16)
            for r in self.runs
            for step, samples in r.samples.items()
            if r.seed == min(x.seed for x in self.runs) or step == r.steps[-1]
        }
        np.savez_compressed(self.out / "samples.npz", **kept)
        print(f"\n{wall:.0f} s; wrote {', '.join(sorted(p.name for p in self.out.iterdir()))} to {self.out}")
