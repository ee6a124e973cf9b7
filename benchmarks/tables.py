"""Writes the tables of docs/speed.md from the results of the measurements: no number there is typed by hand.

    python -m benchmarks.tables [--check]

What stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is replaced; ``--check`` changes nothing and fails if
something would change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.folders import CITED, ROOT

PAGE = ROOT / "docs" / "speed.md"

Rows = list[list[str]]


def markdown(header: list[str], rows: Rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sources(records: list[dict[str, Any]]) -> str:
    """A line for each command and machine, with what else the machine had to do meanwhile."""
    loads: dict[str, list[float]] = {}
    for machine in records:
        parts = [f"{machine['cpu']}, {machine['cores']} cores", machine.get("gpu"), f"torch {machine['torch']}"]
        if "threads" in machine:
            parts.append(f"threads: {machine['threads']}")
        line = f"`{machine['command']}`, {machine['date'][:10]}: {', '.join(part for part in parts if part)}"
        loads.setdefault(line, []).extend([machine["load"]] if machine.get("load") is not None else [])
    return "\n".join(f"- {line}{f', load average {_range(some)}' if some else ''}." for line, some in loads.items())


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def _by_cell(results: list[dict[str, Any]], values: Callable[[dict[str, Any]], dict[str, str]], corner: str) -> str:
    """A column for each cell, a row for each variant that any of them has."""
    columns = [values(result) for result in results]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return markdown([corner, *(result["title"] for result in results)], rows)


def step(record: dict[str, Any]) -> str:
    results = record["results"]

    def values(result: dict[str, Any]) -> dict[str, str]:
        shown = {"summed loss": f"{result['plain_ms']:.3g} ms"}
        shown |= {n: f"{q[1]:.2f}" for n, q in result["ratio_quartiles"].items() if n != "summed loss"}
        return shown | dict.fromkeys(result["failed"], "not run")

    return _by_cell(results, values, "time / summed loss") + "\n\n" + _sources([r["machine"] for r in results])


def memory(record: dict[str, Any]) -> str:
    results = record["results"]

    def values(result: dict[str, Any]) -> dict[str, str]:
        shown = {"summed loss, peak": f"{result['peak_bytes']['summed loss'] / 2**20:.3g} MiB"}
        shown["size of the parameters"] = f"{result['parameter_bytes'] / 2**20:.3g} MiB"
        shown["**floor**, in place / kept"] = f"{result['floor_in_place']} / {result['floor_kept']}"
        extra = result["extra_in_parameters"].items()
        return shown | {name: f"{x:.2f}" for name, x in extra if name != "summed loss"}

    return _by_cell(results, values, "beyond it, in parameters") + "\n\n" + _sources([r["machine"] for r in results])


def overhead(record: dict[str, Any]) -> str:
    rows = [
        [
            f"{r['m']}",
            f"{r['k']:,}",
            f"{r['operations']:.2f}" if "operations" in r else "",
            f"{r['floor_operations']}",
            f"{r['moved']:.2f}" if "moved" in r else "",
            f"{r['floor_moved']}",
            str(r.get("launches", "")),
            str(r.get("allocations", "")),
            f"{r['combination_ms']:.3g} ms",
            f"{r['share_quartiles'][1]:.2f}",
            *([f"{r['replayed_ms']:.3g} ms", f"{r['replayed_share_quartiles'][1]:.2f}"] if "replayed_ms" in r else []),
        ]
        for r in record["sizes"]
    ]
    if "replayed_ms" in record["sizes"][0]:  # on a GPU, where kernels of our own are not counted
        rows = [[row[i] for i in (0, 1, 8, 9, 10, 11)] for row in rows]
        shares = ["share of a copy's bandwidth", "replayed", "share"]
        return markdown(["m", "k", "launched one by one", *shares], rows) + f"\n\n{_sources([record['machine']])}"
    header = ["m", "k", "operations / k", "floor", "moved / k", "floor", "operators", "k-sized allocations", "time"]
    sizes = markdown([*header, "share of a copy's bandwidth"], rows)
    rows = [[str(r["tensors"]), str(r.get("launches", "")), f"{r['combination_ms']:.3g} ms"] for r in record["tensors"]]
    tensors = markdown(["tensors that a million parameters lie in", "operators", "time"], rows)
    return f"{sizes}\n\n{tensors}\n\n{_sources([record['machine']])}"


def losses(record: dict[str, Any]) -> str:
    tables = []
    for problem in ("shared trunk", "disjoint graphs"):
        results = [r | {"title": f"m = {r['m']}"} for r in record["results"] if r["problem"] == problem]

        def values(result: dict[str, Any]) -> dict[str, str]:
            shown = {"summed loss": f"{result['plain_ms']:.3g} ms"}
            shown |= {n: f"{q[1]:.2f}" for n, q in result["ratio_quartiles"].items() if n != "summed loss"}
            return shown | dict.fromkeys(result.get("failed", ()), "not run")

        tables.append(_by_cell(results, values, problem))
    return "\n\n".join([*tables, _sources([record["machine"]])])


def engines(record: dict[str, Any]) -> str:
    tables = []
    for problem in dict.fromkeys(r["problem"] for r in record["results"]):
        results = [r | {"title": f"m = {r['m']}"} for r in record["results"] if r["problem"] == problem]

        def values(result: dict[str, Any]) -> dict[str, str]:
            beyond, quartiles = result["memory_beyond"], result["ratio_quartiles"]
            shown = {"summed loss": f"{result['plain_ms']:.3g} ms"}
            shown |= {n: f"{q[1]:.2f}, {beyond[n]:+.1f} k" for n, q in quartiles.items() if n != "summed loss"}
            return shown | dict.fromkeys(result["failed"], "not run")

        tables.append(_by_cell(results, values, f"{problem}: time, memory"))
    return "\n\n".join([*tables, _sources([record["machine"]])])


def advas(record: dict[str, Any]) -> str:
    results = record["results"]

    def values(result: dict[str, Any]) -> dict[str, str]:
        peaks = result["peak_bytes"]
        plain = peaks["plain step"]
        shown = {"plain step": f"{result['plain_ms']:.3g} ms, {plain / 2**20:.3g} MiB"}
        for name, quartiles in result["ratio_quartiles"].items():
            if name != "plain step":
                shown[name] = f"time {quartiles[1]:.2f}"
                if name in peaks:
                    work = result["operations"]
                    shown[name] += f", operations {work[name] / work['plain step']:.2f}"
                    shown[name] += f", memory {peaks[name] / plain:.2f}"
        return shown

    return _by_cell(results, values, "") + "\n\n" + _sources([record["machine"]])


COMPUTE_BOUND, BANDWIDTH_BOUND, TINY = ("dcgan", "sngan", "biggan"), ("mlp25m",), ("mlp",)
DEFAULT, IN_PLACE = "gradweight AngleBisector", "gradweight AngleBisector, in place"
PEERS = ("TorchJD", "conflictfree", "Algorithm 1")


def targets(results: Path, device: str) -> str:
    """What the step and the combination should reach, what they do, and where they do not."""
    record = json.loads((results / "step" / device / "step.json").read_text())["results"]
    cells = {r["cell"]: {name: q[1] for name, q in r["ratio_quartiles"].items()} for r in record}
    titles = {r["cell"]: r["title"] for r in record}
    rows: Rows = []

    def compare(what: str, target: str, value: float, met: bool) -> None:
        rows.append([what, target, f"{value:.2f}", "met" if met else "**missed**"])

    bounds = [*((c, 1.02) for c in COMPUTE_BOUND), *((c, 1.0) for c in BANDWIDTH_BOUND), *((c, 1.1) for c in TINY)]
    for cell, bound in bounds:
        for name in (DEFAULT, IN_PLACE):
            if cell in cells:
                value = cells[cell][name]
                compare(f"{titles[cell]}: {name}", f"at most {bound:.2f}", value, value <= bound + 0.005)
    for cell, ratios in cells.items():
        eager = [x for name, x in ratios.items() if name.startswith("gradweight") and "compiled" not in name]
        peers = {name: x for name, x in ratios.items() if name.startswith(PEERS)}
        torchjd = [x for name, x in peers.items() if name.startswith("TorchJD")]
        if cell in (*COMPUTE_BOUND, *BANDWIDTH_BOUND, *TINY, "pinn") and torchjd:
            value = min(torchjd) / ratios[IN_PLACE]
            compare(f"{titles[cell]}: TorchJD's fastest / ours in place", "at least 1.60", value, value >= 1.595)
        if peers:
            name = min(peers, key=lambda name: peers[name])
            value = min(eager) / peers[name]
            compare(f"{titles[cell]}: our fastest / the fastest peer ({name})", "at most 1.00", value, value <= 1.005)
    path = results / "overhead" / device / "overhead.json"
    large = [r for r in json.loads(path.read_text())["sizes"] if r["k"] >= 25_000_000] if path.exists() else []
    for r in large:
        value = r["share_quartiles"][1]
        what = f"combination, m = {r['m']}, k = {r['k']:,}: share of a copy's bandwidth"
        compare(what, "at least 0.70", value, value >= 0.695)
    return markdown(["what", "target", "measured", ""], rows)


TABLES = {"step": step, "memory": memory, "overhead": overhead, "losses": losses, "engines": engines, "advas": advas}


def filled(page: str, results: Path = CITED) -> str:
    """The page with every table as the results have it; a table without results says so."""

    def table(match: re.Match[str]) -> str:
        name, _, device = match.group(1).partition(" on ")
        path = results / name.replace("targets", "step") / device / f"{name.replace('targets', 'step')}.json"
        if not path.exists():
            text = "*Not measured yet.*"
        elif name == "targets":
            text = targets(results, device)
        else:
            text = TABLES[name](json.loads(path.read_text()))
        return f"<!-- table: {match.group(1)} -->\n\n{text}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([\w ]+) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    arguments = parser.parse_args()
    page = PAGE.read_text()
    new = filled(page)
    if arguments.check and new != page:
        sys.exit(f"{PAGE.name} is not what the results say: run python -m benchmarks.tables")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
