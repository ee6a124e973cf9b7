"""How the time of a rule grows with the number of losses: as the optimizer calls it on a CPU, and the peers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.cost.timing import interleaved
from benchmarks.pictures import BLUE, GREEN, ORANGE, RED, log_axis, panels, picture, save
from benchmarks.record import machine_record
from benchmarks.rules.calls import peers, write
from benchmarks.rules.libmtl import libmtl
from gradweight.linalg.host_access import call_with_numpy
from gradweight.rule import CoordinateRule, Signals, StatefulRule
from gradweight.rules.claims import CLAIMS, NAMES, Claims

__all__ = ["MANY", "run_many"]

MANY = (2, 4, 8, 16, 32, 64, 128, 256)
COLOURS = {"gradweight": BLUE, "TorchJD": ORANGE, "conflictfree": RED, "LibMTL": GREEN}


def run_many(rounds: int, seconds: float, only: set[str], sizes: tuple[int, ...], out: Path) -> None:
    """Write ``many.json``, ``many.md`` and ``many.png``; what is not measured now stays as it was measured before."""
    before = json.loads((out / "many.json").read_text()) if (out / "many.json").exists() else {}
    machines = before.get("machine", {})
    results: list[dict[str, Any]] = before.get("results", [])
    for m in sizes:
        rng = np.random.default_rng(m)
        rows = torch.tensor(rng.standard_normal((m, 4 * m + 64)), dtype=torch.float32)
        losses = torch.tensor(rng.uniform(0.5, 2, m), dtype=torch.float32)
        theirs, methods = peers(m), libmtl(rows, losses)
        chosen = [c for c in CLAIMS if scales_to(c, m) and (not only or c.name in only)]
        results = [r for r in results if r["m"] != m or r["rule"] not in {c.name for c in chosen}]
        for claims in tqdm(chosen, desc=f"m = {m}"):
            contenders = {"gradweight": as_the_optimizer_calls(claims, rows, losses)}
            if claims.name in theirs:
                contenders["TorchJD"] = lambda w=theirs[claims.name], g=rows @ rows.T: w(g)
            if claims.name in methods:
                contenders["LibMTL"] = methods[claims.name]
            if claims.name == "ConFIG":
                contenders |= conflictfree(rows)
            for kind, times in interleaved(contenders, rounds=rounds, seconds=seconds, warmups=1).items():
                quartiles = [round(1e3 * t, 4) for t in statistics.quantiles(times, n=4)]
                result = {"rule": claims.name, "m": m, "kind": kind, "milliseconds": quartiles[1]}
                results.append(result | {"quartiles": [quartiles[0], quartiles[2]]})
        machines[f"m = {m}"] = machine_record()
        write(out, "many", {"machine": machines, "results": results})
    (out / "many.md").write_text(many_table(results) + "\n")
    draw_many(results, out)


def scales_to(claims: Claims, m: int) -> bool:
    """Whether the rule is one of the Gram matrix that takes any number of losses, this one among them."""
    by_table = "Constant" in claims.name
    return not (isinstance(claims.rule, CoordinateRule) or by_table or claims.losses[1] == 2) and m >= claims.losses[0]


def as_the_optimizer_calls(claims: Claims, rows: torch.Tensor, losses: torch.Tensor) -> Callable[[], object]:
    rule, m, gram = claims.rule, len(rows), rows @ rows.T
    declared = Signals.of(rule)
    given: dict[str, Any] = {"names": (*NAMES, *map(str, range(m)))[:m], "losses": losses, "step": torch.tensor(3)}
    entries = {"max_abs": rows.abs().amax(1), "mean_abs": rows.abs().mean(1)}
    given = declared.select(given | entries if declared.statistics else given)
    given |= {name: torch.tensor(value) for name, value in claims.signals.items()}
    if isinstance(rule, StatefulRule):
        state = rule.init(gram)
        return lambda: call_with_numpy(rule.update, gram, state, **given)
    return lambda: call_with_numpy(rule, gram, **given)  # type: ignore[arg-type]


def conflictfree(rows: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The authors' ConFIG, which takes the gradients themselves, if it is installed."""
    try:
        from conflictfree.grad_operator import ConFIG_update
    except ImportError:
        return {}
    return {"conflictfree": lambda: ConFIG_update(rows)}


def many_table(results: list[dict[str, Any]]) -> str:
    """Milliseconds, a row for each rule: ours, and the fastest peer's after a slash."""
    found = {(r["rule"], r["m"], r["kind"]): r["milliseconds"] for r in results}
    lines = ["| rule | " + " | ".join(map(str, MANY)) + " |", "| --- |" + " --- |" * len(MANY)]
    for rule in dict.fromkeys(r["rule"] for r in results):
        cells = []
        for m in MANY:
            theirs = [found[key] for key in found if key[:2] == (rule, m) and key[2] != "gradweight"]
            ours = found.get((rule, m, "gradweight"))
            cells.append("" if ours is None else f"{ours:.3g}" + (f" / {min(theirs):.3g}" if theirs else ""))
        lines.append(f"| `{rule}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@picture()
def draw_many(results: list[dict[str, Any]], out: Path) -> None:
    """A panel for each rule that a peer has too, and one for the range of all others."""
    with_peers = dict.fromkeys(r["rule"] for r in results if r["kind"] != "gradweight")
    titles = [*with_peers, "others"]
    height = -(-len(titles) // 3)
    figure, grid = panels(height, 3, 0.8 + 1.45 * height, sharex=True, sharey=True)
    for axes, rule in zip(grid.flat, with_peers, strict=False):
        for kind, colour in COLOURS.items():
            points = sorted((r["m"], r["milliseconds"]) for r in results if (r["rule"], r["kind"]) == (rule, kind))
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=colour, ms=3.5, label=kind)
    others = [r for r in results if r["rule"] not in with_peers]
    axes = grid.flat[len(with_peers)]
    if others:
        ms = sorted({r["m"] for r in others})
        times = [[r["milliseconds"] for r in others if r["m"] == m] for m in ms]
        axes.fill_between(ms, [min(t) for t in times], [max(t) for t in times], color=BLUE, alpha=0.2, lw=0)
        axes.plot(ms, [statistics.median(t) for t in times], color=BLUE)
    shown = sorted({r["m"] for r in results})
    for axes, title in zip(grid.flat, titles, strict=False):
        number = len({r["rule"] for r in others})
        axes.set_title(f"{number} other rules: median, range" if title == "others" else title)
        log_axis(axes, "x", "", [m for m in shown if m in (2, 8, 32, 128) or len(shown) < 5])
        log_axis(axes, "y", "", (0.001, 0.1, 10, 1000))
        axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(titles) :]:
        axes.axis("off")
    handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=3)
    figure.supxlabel("number of losses (log scale)")
    figure.supylabel("time of one call on one CPU thread, ms (log scale)")
    save(figure, out / "many.png")
