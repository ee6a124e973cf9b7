"""The time of one call of each rule: eager, compiled, in NumPy, and the peer's."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.cost.timing import interleaved
from benchmarks.pictures import BLUE, GREEN, INK, RED, log_axis, panels, picture, save
from benchmarks.record import machine_record
from benchmarks.rules.calls import caller, peers, statistics_of, takes, write
from gradweight.rule import CoordinateRule
from gradweight.rules.claims import CLAIMS

__all__ = ["SIZES", "run_time"]

KINDS = ("eager", "compiled", "NumPy", "TorchJD")
SIZES = (2, 4, 8, 16)


def run_time(rounds: int, compile_budget: float, only: set[str], sizes: tuple[int, ...], out: Path) -> None:
    # what is not measured now stays as it was measured before, each size with the record of its last run
    before = json.loads((out / "time.json").read_text()) if (out / "time.json").exists() else {}
    machines: dict[str, Any] = before.get("machine", {})
    results: list[dict[str, Any]] = [
        r for r in before.get("results", []) if r["m"] not in sizes or (only and r["rule"] not in only)
    ]
    too_slow: set[str] = set()
    if compile_budget > 0:
        # what the first compilation of a process takes longer is no rule's
        torch.compile(lambda x: x + 1)(torch.zeros(3))
    for m in sizes:
        rng = np.random.default_rng(m)
        rows = rng.standard_normal((m, 64)).astype(np.float32)
        data = {"numpy": (rows @ rows.T, rng.uniform(0.5, 2, m).astype(np.float32), np.asarray(3))}
        data["torch"] = tuple(torch.tensor(x) for x in data["numpy"])
        coordinates = {"numpy": rows, "torch": torch.tensor(rows)}
        entries: dict[str, dict[str, Any]] = {"numpy": statistics_of(rows)}
        entries["torch"] = {name: torch.tensor(x) for name, x in entries["numpy"].items()}
        theirs = peers(m)
        for claims in tqdm([c for c in CLAIMS if takes(c, m) and (not only or c.name in only)], desc=f"m = {m}"):
            call = caller(claims)
            given = {
                kind: (coordinates[kind], *data[kind][1:]) if isinstance(claims.rule, CoordinateRule) else data[kind]
                for kind in data
            }
            state = {kind: call(*given[kind], None, entries[kind])[1] for kind in data}
            contenders = {
                "eager": lambda c=call, g=given["torch"], s=state["torch"], x=entries["torch"]: c(*g, s, x),
                "NumPy": lambda c=call, g=given["numpy"], s=state["numpy"], x=entries["numpy"]: c(*g, s, x),
            }
            compile_seconds = None
            if compile_budget > 0 and claims.name not in too_slow:
                torch.compiler.reset()
                compiled = torch.compile(call, fullgraph=True, dynamic=False)
                began = time.perf_counter()
                compiled(*given["torch"], state["torch"], entries["torch"])
                compile_seconds = round(time.perf_counter() - began, 1)
                if compile_seconds > compile_budget:
                    too_slow.add(claims.name)
                contenders["compiled"] = lambda c=compiled, g=given["torch"], s=state["torch"], x=entries["torch"]: c(
                    *g, s, x
                )
            if claims.name in theirs:
                contenders["TorchJD"] = lambda w=theirs[claims.name], g=data["torch"][0]: w(g)
            for kind, times in interleaved(contenders, rounds=rounds).items():
                quartiles = statistics.quantiles(times, n=4)
                results.append(
                    {
                        "rule": claims.name,
                        "m": m,
                        "kind": kind,
                        "microseconds": round(1e6 * statistics.median(times), 1),
                        "quartiles": [round(1e6 * quartiles[0], 1), round(1e6 * quartiles[2], 1)],
                    }
                    | ({"compile_seconds": compile_seconds} if kind == "compiled" else {})
                )
        machines[f"m = {m}"] = machine_record() | {"threads": torch.get_num_threads()}
        write(out, "time", {"machine": machines, "results": results, "compile_budget_seconds": compile_budget})
        (out / "time.md").write_text(time_table(results, compile_budget) + "\n")
    draw_time(results, out)


def time_table(results: list[dict[str, Any]], compile_budget: float) -> str:
    """Microseconds of one call and seconds of compilation, a row for each rule and number of losses."""
    found = {(r["rule"], r["m"], r["kind"]): r for r in results}
    columns = ["rule", "losses", *(f"{kind}, µs" for kind in KINDS), "compiling, s"]
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    for claims in CLAIMS:
        for m in SIZES:
            cells = [found.get((claims.name, m, kind)) for kind in KINDS]
            if not any(cells):
                why = "not measured" if takes(claims, m) else f"for {claims.losses[0]} to {claims.losses[1]} losses"
                lines.append(f"| `{claims.name}` | {m} | {why} |" + " |" * (len(KINDS)))
                continue
            compiled = found.get((claims.name, m, "compiled"), {}).get("compile_seconds")
            why = {"compiled": f"fewer losses took over {compile_budget:g} s", "TorchJD": "has none"}
            texts = [
                f"{cell['microseconds']:.0f}" if cell else why.get(kind, "")
                for kind, cell in zip(KINDS, cells, strict=True)
            ]
            seconds = "" if compiled is None else f"{compiled:.1f}"
            lines.append(f"| `{claims.name}` | {m} | " + " | ".join(texts) + f" | {seconds} |")
    return "\n".join(lines)


MARKS = {"eager": ("o", RED), "compiled": ("s", BLUE), "NumPy": ("D", GREEN), "TorchJD": ("x", INK)}


@picture()
def draw_time(results: list[dict[str, Any]], out: Path) -> None:
    """A row for each rule, the fastest in eager mode first; few losses on the left and many on the right."""
    sizes = sorted({result["m"] for result in results})
    sizes = sizes if len(sizes) == 1 else [sizes[0], sizes[-1]]
    eager = {r["rule"]: r["microseconds"] for r in sorted(results, key=lambda r: -r["m"]) if r["kind"] == "eager"}
    names = sorted(eager, key=lambda name: eager[name])
    figure, grid = panels(1, len(sizes), 1.2 + 0.2 * len(names), sharey=True)
    for axes, m in zip(grid[0], sizes, strict=True):
        own = [result for result in results if result["m"] == m and result["rule"] in eager]
        for kind, (marker, colour) in MARKS.items():
            some = [result for result in own if result["kind"] == kind]
            places = [names.index(result["rule"]) for result in some]
            axes.plot([r["microseconds"] for r in some], places, marker, color=colour, ms=5, label=kind)
            for place, result in zip(places, some, strict=True):
                axes.plot(result["quartiles"], [place, place], color=colour, lw=1)
        spread = [r["microseconds"] for r in own]
        axes.set(title=f"{m} losses", xlim=(0.7 * min(spread), 1.4 * max(spread)))
        log_axis(axes, "x", "time of one call, µs", (10, 100, 1000, 10_000, 100_000))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    save(figure, out / "time.png")
