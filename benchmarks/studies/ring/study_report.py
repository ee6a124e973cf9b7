"""What came out of the ring study: rates and means with intervals, comparisons over paired seeds, claims, page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.intervals import bootstrap, sign_test, wilson
from benchmarks.studies.ring.study_claims import CLAIMS, Claim
from benchmarks.studies.ring.study_figure import draw
from benchmarks.studies.ring.study_runs import METHODS, Setting

BEGIN, END = "<!-- benchmarks/studies/ring/study.py{} writes from here -->", "<!-- to here -->"
METRICS = ("modes", "quality", "kl")


# ---- numbers


@dataclass(frozen=True)
class End:
    """A run after its last step."""

    modes: int
    quality: float
    kl: float

    @property
    def success(self) -> bool:
        """By the definition of the (alpha_D, alpha_G) paper."""
        return self.modes == 8

    @property
    def failure(self) -> bool:
        """By the same paper's."""
        return self.modes == 0


Ends = dict[str, dict[int, End]]


def ends_of(rows: Iterable[Sequence[Any]], setting: Setting) -> Ends:
    """Method -> seed -> the end of the run, of the runs that have one."""
    ends: Ends = {}
    for method, seed, step, *measured in rows:
        if step == setting.steps:
            ends.setdefault(method, {})[seed] = End(*measured)
    return {name: dict(sorted(ends[name].items())) for name in METHODS if name in ends}


def summarise(ends: Ends) -> dict[str, dict[str, Any]]:
    """Rates with Wilson's intervals, means with bootstrapped ones: (mean, low, high); no KL of a run that diverged."""
    summary: dict[str, dict[str, Any]] = {}
    for method, runs in ends.items():
        entry: dict[str, Any] = {"seeds": len(runs), "diverged": sum(math.isnan(run.kl) for run in runs.values())}
        for name in ("success", "failure"):
            k = sum(getattr(run, name) for run in runs.values())
            entry[name] = (k, *(round(x, 4) for x in wilson(k, len(runs))))
        for name in METRICS:
            values = [float(getattr(run, name)) for run in runs.values()]
            entry[name] = tuple(round(x, 4) for x in bootstrap([v for v in values if not math.isnan(v)]))
        summary[method] = entry
    return summary


def compare(ends: Ends, method: str, other: str) -> dict[str, Any]:
    """Two methods over the seeds that both have: seeds won and lost by success and failure, differences of means."""
    seeds = sorted(ends.get(method, {}).keys() & ends.get(other, {}).keys())
    pairs = [(ends[method][seed], ends[other][seed]) for seed in seeds]
    result: dict[str, Any] = {"seeds": len(seeds)}
    for name in ("success", "failure"):
        only = sum(getattr(a, name) and not getattr(b, name) for a, b in pairs)
        only_other = sum(getattr(b, name) and not getattr(a, name) for a, b in pairs)
        result[name] = {"only": only, "only other": only_other, "p": round(sign_test(only, only_other), 4)}
    for name in METRICS:
        differences = [float(getattr(a, name) - getattr(b, name)) for a, b in pairs]
        result[name] = tuple(round(x, 4) for x in bootstrap([d for d in differences if not math.isnan(d)]))
    return result


def verdict(claim: Claim, comparison: dict[str, Any]) -> str:
    """Whether the claim held here, at 5% by a sign test over the seeds in which the two methods differ."""
    found = comparison[claim.metric]
    better, worse = found["only"], found["only other"]
    if claim.metric == "failure":
        better, worse = worse, better
    if better == worse:
        return "no difference"
    if found["p"] < 0.05:
        return "**held**" if better > worse else "**did not hold**: the opposite"
    return "same direction, not clear" if better > worse else "opposite direction, not clear"


def off_centre(samples: Path) -> dict[str, tuple[float, float]]:
    """How far the mean of a run's samples is from the centre of the ring: the least and the most of the runs kept."""
    distances: dict[str, list[float]] = {}
    for key, kept in dict(np.load(samples)).items() if samples.exists() else ():
        method = key.rpartition("|")[0].replace("|", "/")
        distances.setdefault(method, []).append(float(np.linalg.norm(kept.astype(np.float64).mean(0))))
    return {name: (round(min(found), 2), round(max(found), 2)) for name, found in sorted(distances.items())}


# ---- the page


def tables(ends: Ends, setting: Setting, distances: dict[str, tuple[float, float]]) -> str:
    """The study's tables in Markdown; `distances` are those of `off_centre`."""
    summary = summarise(ends)
    seeds = sorted({entry["seeds"] for entry in summary.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    lines = [
        f"{counted} seeds of each method, {setting.steps:,} steps of {setting.batch}, generator "
        f"{setting.generator_width} x {setting.hidden_layers}, discriminator {setting.discriminator_width} x "
        f"{setting.hidden_layers}, Adam at {setting.learning_rate:g}. Rates with Wilson's, means with bootstrapped 95% "
        "intervals.",
        "",
        "| | all 8 modes (success) | none (failure) | modes covered | samples of high quality | KL (nats) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for game in dict.fromkeys(method.partition("/")[0] for method in summary):
        lines.append(f"| *{game} generator* | | | | | |")
        for method, entry in summary.items():
            own_game, _, name = method.partition("/")
            if own_game != game:
                continue
            rates = [
                "{} of {} ({:.0%} to {:.0%})".format(k, entry["seeds"], *interval) for k, *interval in _rates(entry)
            ]
            lines.append(
                f"| {name} | {rates[0]} | {rates[1]} | {_span(entry['modes'], '{:.1f}')} | "
                f"{_span(entry['quality'], '{:.0%}')} | {_span(entry['kl'], '{:.2f}')} |"
            )
    if outside := [name for name in summary if distances.get(name, (0, 0))[1] > 2]:
        spans = ["{}, {:.0f} to {:.0f}".format(name.replace("/", " "), *distances[name]) for name in outside]
        lines += [
            "",
            "The ring has radius 1. Runs of these methods have left it; how far the mean of a run's samples is from its"
            f" centre, the least and the most of the runs whose samples are kept: {'; '.join(spans)}.",
        ]
    if not_run := [method for method in METHODS if method not in ends]:
        lines += ["", f"Not run: {', '.join(not_run)}."]
    lines += [
        "",
        "Claims, judged over paired seeds: in how many the one method alone succeeded (or failed), and in how many the "
        "other alone; p by a sign test, not corrected for the number of claims. The last columns are mean differences "
        "of the first method to the second.",
        "",
        "| claim | the paper's numbers | here | verdict | modes | quality | KL |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for claim in CLAIMS:
        comparison = compare(ends, claim.method, claim.other)
        if comparison["seeds"] == 0:
            continue
        found, (one, other) = comparison[claim.metric], (claim.method, claim.other)
        did = "succeeded" if claim.metric == "success" else "failed"
        lines.append(
            f"| {claim.says} | {claim.paper} | {did}: only {_short(one)} {found['only']}, only {_short(other)} "
            f"{found['only other']} of {comparison['seeds']} (p = {found['p']:.2g}) | {verdict(claim, comparison)} | "
            f"{_span(comparison['modes'], '{:+.1f}')} | {_span(comparison['quality'], '{:+.0%}')} | "
            f"{_span(comparison['kl'], '{:+.2f}')} |"
        )
    return "\n".join(lines)


def _rates(entry: dict[str, Any]) -> list[tuple[int, float, float]]:
    return [entry["success"], entry["failure"]]


def _span(mean_and_interval: tuple[float, float, float], form: str) -> str:
    if any(math.isnan(x) for x in mean_and_interval):
        return "diverged"
    mean, low, high = (form.format(x) for x in mean_and_interval)
    return f"{mean} ({low} to {high})"


def _short(method: str) -> str:
    return method.partition("/")[2]


def insert(page: str, text: str, mark: str) -> str:
    """The page with what stands between this line and the next END replaced."""
    before, begin, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {mark!r} and {END!r}; the tables go between them")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def write_report(
    out: Path,
    rows: list[Any],
    setting: Setting,
    page: Path | None,
    machine: dict[str, Any] | None,
    option: str = "",
) -> None:
    """Print the tables; write them to the page, the figure, and study.json, which keeps the machine that it names.

    `option` is the script's, by which its part of the page is marked.
    """
    ends, record = ends_of(rows, setting), out / "study.json"
    if machine is None and record.exists():
        machine = json.loads(record.read_text())["machine"]
    claims = [
        dataclasses.asdict(claim)
        | {"found": (found := compare(ends, claim.method, claim.other))}
        | ({"verdict": verdict(claim, found).replace("*", "")} if found["seeds"] else {})
        for claim in CLAIMS
    ]
    distances = off_centre(out / "samples.npz")
    content = {
        "machine": machine,
        "setting": dataclasses.asdict(setting),
        "at the end: count or mean, low, high": summarise(ends),
        "distance of the samples' mean from the centre of the ring, least and most of the runs kept": distances,
        "claims": claims,
    }
    record.write_text(json.dumps(content, indent=1).replace("NaN", "null") + "\n")
    draw(ends, summarise(ends), out / "samples.npz", out / "ring_study.png")
    text = tables(ends, setting, distances)
    print(text)
    if page is not None:
        page.write_text(insert(page.read_text(), text, BEGIN.format(option and f" {option}")))
