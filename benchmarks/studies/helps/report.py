"""What the runs say: each method's errors, and over paired seeds their ratio to the sum's and to fixed weights'."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.studies.helps.figure import draw
from benchmarks.studies.helps.methods import COMMON, FINE, FIXED, PROBLEMS, Scale, methods
from benchmarks.studies.helps.runs import JUDGED, Run, read_runs
from benchmarks.studies.intervals import bootstrap, holm, sign_test
from benchmarks.tables import markdown

__all__ = [
    "BASES",
    "Compared",
    "Judged",
    "compare",
    "insert",
    "judged_by",
    "overview",
    "read",
    "tables",
    "write_report",
]

MARK, END = "<!-- benchmarks/studies/helps writes {} from here -->", "<!-- to here -->"
LEVEL = 0.05
BASES = {"Sum": "the sum", FIXED: FIXED, FINE: FINE}
"""What the others are held against, and how a table calls it."""


@dataclass(frozen=True)
class Compared:
    """Errors over another method's, the same seeds: their geometric mean, its 95% interval, and a sign test."""

    ratio: float
    low: float
    high: float
    better: int
    worse: int
    p: float
    """Corrected for all comparisons with that method on a problem (Holm)."""

    @property
    def clear(self) -> int:
        """1 if clearly better, -1 if clearly worse: test and interval agree."""
        if self.p >= LEVEL or self.low <= 1 <= self.high:
            return 0
        return 1 if self.ratio < 1 else -1


@dataclass(frozen=True)
class Judged:
    """A method on a problem: the trial that tuning chose, the median of each error, and the comparisons."""

    trial: str
    errors: dict[str, float]
    scores: list[float]
    diverged: int
    to: dict[str, Compared]
    """By the method compared with, of `BASES`."""


def compare(ours: dict[int, float], theirs: dict[int, float]) -> Compared:
    """Scores by seed against scores by seed, with p not yet corrected."""
    seeds = ours.keys() & theirs.keys()
    logs = [math.log(ours[seed] / theirs[seed]) for seed in sorted(seeds)]
    better, worse = sum(x < 0 for x in logs), sum(x > 0 for x in logs)
    return Compared(*(math.exp(x) for x in bootstrap(logs)), better, worse, sign_test(better, worse))


def judged_by(runs: list[Run], order: list[str]) -> dict[str, Judged]:
    """Every method whose runs are there, and "Sum" among them; else none."""
    by_method: dict[str, list[Run]] = {name: [] for name in order}
    for run in runs:
        if run.stage == JUDGED:
            by_method[run.method].append(run)
    scores = {name: {run.seed: run.score for run in made} for name, made in by_method.items() if made}
    if "Sum" not in scores:
        return {}
    compared = {base: _compared(scores, base) for base in BASES}
    return {
        name: Judged(
            by_method[name][0].trial,
            {k: statistics.median(run.errors[k] for run in by_method[name]) for k in by_method[name][0].errors},
            list(seeds.values()),
            sum(not all(map(math.isfinite, run.errors.values())) for run in by_method[name]),
            {base: found[name] for base, found in compared.items() if name in found},
        )
        for name, seeds in scores.items()
    }


def _compared(scores: dict[str, dict[int, float]], base: str) -> dict[str, Compared]:
    """Every other method against one, p corrected for their number."""
    if base not in scores:
        return {}
    found = {name: compare(seeds, scores[base]) for name, seeds in scores.items() if name != base}
    corrected = holm([c.p for c in found.values()])
    return {name: Compared(**asdict(c) | {"p": p}) for (name, c), p in zip(found.items(), corrected, strict=True)}


def overview(problems: dict[str, dict[str, Judged]]) -> str:
    """A row for each method: its error over the sum's on each problem, and how often it was clearly better or worse."""
    names = list(dict.fromkeys(name for judged in problems.values() for name in judged if name != "Sum"))
    rows = []
    for name in sorted(names, key=lambda name: name not in COMMON):  # what is made for one problem comes last
        to = {base: [judged[name].to.get(base) for judged in problems.values() if name in judged] for base in BASES}
        ratios = [_ratio(judged[name].to.get("Sum")) if name in judged else "" for judged in problems.values()]
        rows.append([_name(name), *ratios, *map(_counts, to.values())])
    return markdown(["error / the sum's", *problems, *(f"against {called}" for called in BASES.values())], rows)


def tables(problems: dict[str, dict[str, Judged]]) -> str:
    """For each problem what tuning chose, the errors, and both comparisons."""
    parts = []
    for problem, judged in problems.items():
        errors = list(judged["Sum"].errors)
        header = ["method", "tuned", *errors]
        header += [cell for called in BASES.values() for cell in (f"/ {called}", "better, worse (p)")]
        rows = [
            [
                _name(name),
                one.trial + (f"; {one.diverged} diverged" if one.diverged else ""),
                *(f"{one.errors[k]:.3g}" for k in errors),
                *(cell for base in BASES for cell in _comparison(one.to.get(base))),
            ]
            for name, one in judged.items()
        ]
        parts.append(f"**{problem}**\n\n{markdown(header, rows)}")
    return "\n\n".join(parts)


def _name(method: str) -> str:
    return method if method in (FIXED, FINE) else f"`{method}`"


def _ratio(compared: Compared | None) -> str:
    if compared is None:
        return ""
    text = f"{compared.ratio:.2f}"
    return f"**{text}**" if compared.clear > 0 else f"*{text}*" if compared.clear < 0 else text


def _counts(compared: list[Compared | None]) -> str:
    found = [c.clear for c in compared if c is not None]
    return f"{sum(x > 0 for x in found)} better, {sum(x < 0 for x in found)} worse of {len(found)}" if found else ""


def _comparison(compared: Compared | None) -> tuple[str, str]:
    if compared is None:
        return "", ""
    p = "p < 0.001" if compared.p < 0.001 else f"p = {compared.p:.2g}"
    return (
        f"{_ratio(compared)} ({compared.low:.2f} to {compared.high:.2f})",
        f"{compared.better}, {compared.worse} ({p})",
    )


def insert(page: str, texts: dict[str, str]) -> str:
    """The page with what stands between the marks of each name replaced."""
    for name, text in texts.items():
        begin = MARK.format(name)
        pattern = f"{re.escape(begin)}.*?{re.escape(END)}"
        page, found = re.subn(pattern, lambda _, b=begin, t=text: f"{b}\n\n{t}\n\n{END}", page, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"the page needs the lines {begin!r} and {END!r} once; the {name} goes between them")
    return page


def read(out: Path) -> dict[str, dict[str, Judged]]:
    """By title, what there is of each problem."""
    problems = {}
    for name, made in PROBLEMS.items():
        path, problem = out / f"{name}.csv", made()
        if path.exists() and (judged := judged_by(read_runs(path), methods(problem))):
            problems[problem.name] = judged
    return problems


def write_report(out: Path, scale: Scale, page: Path | None) -> None:
    """Print the overview; write all tables and the figure, and the page if one is given."""
    problems = read(out)
    if not problems:
        return
    content: dict[str, Any] = {
        "tuning seeds": scale.tuning_seeds,
        "judged seeds": scale.judged_seeds,
        "problems": {name: {k: asdict(one) for k, one in judged.items()} for name, judged in problems.items()},
    }
    for judged in content["problems"].values():
        for one in judged.values():
            del one["scores"]  # the csv files have them
    (out / "helps.json").write_text(json.dumps(content, indent=1).replace("NaN", "null") + "\n")
    draw(problems, out / "helps.png")
    print(overview(problems))
    if page is not None:
        page.write_text(insert(page.read_text(), {"overview": overview(problems), "tables": tables(problems)}))
