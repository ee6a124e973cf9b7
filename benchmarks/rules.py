"""What does a rule cost, where does it lead, and where does it differ from the peer's?

    python benchmarks/rules.py [--parts toy,agreement,time] [--rounds N] [--compile-seconds S] [--out DIR] [--quick]

- **toy**: the two-objective problem of CAGrad and Nash-MTL, the first objective times 0.1 as in the latter, from five
  starts; trajectories of every rule that takes two losses.
- **agreement**: random gradients whose norms differ more and more; how often a direction conflicts with one of them,
  ours and TorchJD's.
- **time**: the time of one call for m = 2, 4, 8, 16 losses: eager, compiled (inductor) and in NumPy, and TorchJD's
  weighting where there is one and its solver is installed. The contenders take turns, so that a machine that slows
  down slows all of them down; reported is the median over the rounds with its quartiles. Compiling unrolls the loops
  over losses and iterations: a rule that took more than ``--compile-seconds`` is not compiled for more losses.
  ``--sizes`` measures some m again and keeps the others.

Each part writes its JSON, with a record of the machine, and its figure to ``benchmarks/results/rules/`` when it ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record import machine_record
from gradweight.rule import CoordinateRule, Signals, StatefulRule
from gradweight.rules.claims import CLAIMS, NAMES, Claims

RESULTS = Path(__file__).parent / "results" / "rules"
KINDS = ("eager", "compiled", "NumPy", "TorchJD")
SIZES = (2, 4, 8, 16)
CURVE = "#c0392b"


def caller(claims: Claims) -> Callable[..., tuple[Any, Any]]:
    """``(gram or rows, losses, step, state, statistics) -> (weights or direction, state)``, for any shape of rule."""
    rule, declared = claims.rule, Signals.of(claims.rule)

    def call(gram: Any, losses: Any, step: Any, state: Any, statistics: dict[str, Any]) -> tuple[Any, Any]:
        given = {"names": NAMES[: len(losses)], "losses": losses, "step": step}
        given = declared.select(given | statistics if declared.statistics else given)
        given |= {name: 0 * losses[0] + value for name, value in claims.signals.items()}
        if isinstance(rule, StatefulRule):
            return rule.update(gram, rule.init(gram) if state is None else state, **given)
        return (rule.combine if isinstance(rule, CoordinateRule) else rule)(gram, **given), None

    return call


def statistics_of(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What a rule may ask for beside the Gram matrix, (m,) each."""
    return {"max_abs": np.abs(rows).max(1), "mean_abs": np.abs(rows).mean(1)}


def takes(claims: Claims, m: int) -> bool:
    return claims.losses[0] <= m <= claims.losses[1]


# ---- toy


STARTS = np.array([[-8.5, 7.5], [-8.5, 5.0], [0.0, 0.0], [9.0, 9.0], [10.0, -8.0]])
SCALES = np.array([0.1, 1.0])
LEARNING_RATE = 0.02


def objectives(x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """The two losses and their gradients, (2,) and (2, 2); arXiv:2202.01017, Appendix."""
    losses, rows = np.zeros(2), np.zeros((2, 2))
    sech2 = 1 - np.tanh(y) ** 2
    upper, lower = np.tanh(0.5 * y), np.tanh(-0.5 * y)
    slope = 0.5 * (1 - np.tanh(0.5 * y) ** 2)
    for i, (shift, offset, centre) in enumerate(((-7.0, 0.0, 7.0), (3.0, 2.0, -7.0))):
        inner = 0.5 * (-x + shift) + np.tanh(y) + offset
        size = max(abs(inner), 5e-6)
        f = np.log(size) + 6
        df = np.array([-0.5, sech2]) / inner if abs(inner) > 5e-6 else np.zeros(2)
        g = ((-x + centre) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
        dg = np.array([-2 * (centre - x), 0.2 * (y + 8)]) / 10
        losses[i] = max(upper, 0) * f + max(lower, 0) * g
        rows[i] = max(upper, 0) * df + max(lower, 0) * dg
        # at 0 both, as a clamp's derivative is 1 at its bound: the start (0, 0) would never move otherwise
        rows[i, 1] += (slope * f if upper >= 0 else 0) - (slope * g if lower >= 0 else 0)
    return SCALES * losses, SCALES[:, None] * rows


def trajectory(claims: Claims, start: np.ndarray, steps: int, lr: float) -> np.ndarray:
    """Adam (0.9, 0.99) along the rule's direction, (steps + 1, 2)."""
    call, state = caller(claims), None
    point, first, second = start.copy(), np.zeros(2), np.zeros(2)
    points = [point.copy()]
    for step in range(steps):
        losses, rows = objectives(*point)
        # losses from which the rules that take logarithms see positive numbers; it changes no gradient
        shifted = losses + 25 * SCALES
        if isinstance(claims.rule, CoordinateRule):
            direction, state = call(rows, shifted, step, state, {})
        else:
            weights, state = call(rows @ rows.T, shifted, step, state, statistics_of(rows))
            direction = rows.T @ weights
        first, second = 0.9 * first + 0.1 * direction, 0.99 * second + 0.01 * direction**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        point = point - lr * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        points.append(point.copy())
    return np.array(points)


def stationarity(point: np.ndarray) -> float:
    """Length of the shortest convex combination of the two unit gradients: 0 at a Pareto stationary point."""
    _, rows = objectives(*point)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return float(np.linalg.norm(units.sum(0)) / 2)


def on_the_front(point: np.ndarray) -> bool:
    """Within half a unit of the front, the segment from (-7, -8.4) to (7, -8.4).

    At its ends one gradient vanishes, so that the angle between the two says nothing there.
    """
    return bool(abs(point[1] + 8.4) < 0.5 and abs(point[0]) < 7.5)


def run_toy(steps: int, out: Path) -> None:
    # once each: an instance can be in the list twice, with more claims for two losses than for many
    chosen = [claims for i, claims in enumerate(CLAIMS) if takes(claims, 2) and not _listed(claims, CLAIMS[:i])]
    record: dict[str, Any] = {
        "machine": machine_record(),
        "steps": steps,
        "lr": LEARNING_RATE,
        "starts": STARTS.tolist(),
        "rules": {},
    }
    paths: dict[str, list[np.ndarray]] = {}
    for claims in tqdm(chosen, desc="toy"):
        began = time.perf_counter()
        paths[claims.name] = [trajectory(claims, start, steps, LEARNING_RATE) for start in STARTS]
        ends = [path[-1] for path in paths[claims.name]]
        record["rules"][claims.name] = {
            "ends": [end.round(3).tolist() for end in ends],
            "losses": [objectives(*end)[0].round(4).tolist() for end in ends],
            "stationarity": [round(stationarity(end), 4) for end in ends],
            "on_the_front": sum(on_the_front(end) for end in ends),
            "seconds": round(time.perf_counter() - began, 1),
        }
    write(out, "toy", record)
    draw_toy(paths, record["rules"], out)


def _listed(claims: Claims, others: tuple[Claims, ...]) -> bool:
    return any(claims.rule == other.rule for other in others)


def draw_toy(paths: dict[str, list[np.ndarray]], found: dict[str, Any], out: Path) -> None:
    xs, ys = np.linspace(-11, 11, 121), np.linspace(-11, 11, 121)
    total = np.array([[(objectives(x, y)[0] / SCALES).sum() for x in xs] for y in ys])
    columns = 7
    rows = -(-len(paths) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.25 * rows), sharex=True, sharey=True)
    for axes in grid.flat[len(paths) :]:
        axes.axis("off")
    for axes, (name, some) in zip(grid.flat, paths.items(), strict=False):
        axes.contourf(xs, ys, total, levels=25, cmap="Greys", alpha=0.6)
        axes.plot([-7, 7], [-8.3, -8.3], color="black", lw=2.5, solid_capstyle="round")
        for path in some:
            axes.plot(path[::10, 0], path[::10, 1], color=CURVE, lw=1)
            axes.plot(*path[0], "o", color="black", ms=3)
            axes.plot(*path[-1], "*", color="#1f5fa8", ms=7)
        axes.set_title(f"{name}\n{found[name]['on_the_front']} of {len(some)} on the front", fontsize=7)
        axes.set(xlim=(-11, 11), ylim=(-11, 11), xticks=[], yticks=[])
    figure.suptitle(
        "Two objectives, one ten times smaller: dots start, stars end, the thick line is the Pareto front (Adam)",
        fontsize=10,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(out / "toy.png", dpi=110)
    plt.close(figure)


# ---- the peer


def peers(m: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """TorchJD's weightings by the names of our rules; those whose solver is missing are left out."""
    try:
        import torchjd.aggregation as peer
    except ImportError:
        return {}
    makers: dict[str, Callable[[], Any]] = {
        "AlignedMTL": lambda: peer.AlignedMTLWeighting(),
        "CAGrad": lambda: peer.CAGradWeighting(c=0.5),
        "DualProj": lambda: peer.DualProjWeighting(),
        "FairGrad(alpha=0.5)": lambda: peer.FairGradWeighting(alpha=0.5),
        "GradVac": lambda: peer.GradVacWeighting(),
        "IMTLG": lambda: peer.IMTLGWeighting(),
        "Krum": lambda: peer.KrumWeighting(n_byzantine=1),
        "MGDA": lambda: peer.MGDAWeighting(),
        "Mean": lambda: peer.MeanWeighting(),
        "NashMTL": lambda: peer.NashMTL(n_tasks=m).weighting << matrix_root,
        "PCGrad": lambda: peer.PCGradWeighting(),
        "Random": lambda: peer.RandomWeighting(),
        "SDMGrad": lambda: peer.SDMGradWeighting(),
        "Sum": lambda: peer.SumWeighting(),
        "UPGrad": lambda: peer.UPGradWeighting(),
    }
    found = {}
    for name, make in makers.items():
        gram = torch.eye(m, dtype=torch.float32)
        try:
            weighting = make()
            weighting(gram)
        except (ImportError, AttributeError, ValueError, TypeError):
            continue
        found[name] = weighting
    return found


def matrix_root(gram: torch.Tensor) -> torch.Tensor:
    """Some gradients with these inner products, (m, m), for a weighting that wants gradients."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


def run_agreement(trials: int, out: Path) -> None:
    record: dict[str, Any] = {"machine": machine_record(), "trials": trials, "m": 3, "rules": {}}
    theirs = peers(3)
    ratios = [1, 3, 10, 30, 100, 1000]
    both = [claims for claims in CLAIMS if claims.name in theirs and claims.non_conflicting]
    for claims in tqdm(both, desc="agreement"):
        call, rows_of_table = caller(claims), []
        for ratio in ratios:
            rng = np.random.default_rng(ratio)
            counts, worst, apart = [0, 0], [1.0, 1.0], []
            for trial in range(trials):
                rows = rng.standard_normal((3, 5))
                rows *= np.geomspace(1, 1 / ratio, 3)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
                gram = rows @ rows.T
                ours, _ = call(gram, np.ones(3), trial, None, {})
                other = theirs[claims.name](torch.tensor(gram)).detach().numpy()
                directions = [rows.T @ ours, rows.T @ other]
                units = [d / max(np.linalg.norm(d), 1e-300) for d in directions]
                for k, unit in enumerate(units):
                    cosine = float((rows @ unit / np.linalg.norm(rows, axis=1)).min())
                    counts[k] += int(cosine < -1e-6)
                    worst[k] = min(worst[k], cosine)
                apart.append(float(np.degrees(np.arccos(np.clip(units[0] @ units[1], -1, 1)))))
            rows_of_table.append(
                {
                    "norm_ratio": ratio,
                    "conflicts": counts,
                    "worst_cosine": worst,
                    "median_angle_between_deg": statistics.median(apart),
                    "largest_angle_between_deg": max(apart),
                }
            )
        record["rules"][claims.name] = rows_of_table
        for row in rows_of_table:
            tqdm.write(f"{claims.name:12} {row}")
    write(out, "agreement", record)


# ---- time


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
            for kind, times in interleaved(contenders, rounds).items():
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


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call, once per round for each contender, after two rounds to warm up."""
    times: dict[str, list[float]] = {kind: [] for kind in contenders}
    for round_ in range(rounds + 2):
        for kind, call in contenders.items():
            began = time.perf_counter()
            call()
            if round_ >= 2:
                times[kind].append(time.perf_counter() - began)
    return times


def draw_time(results: list[dict[str, Any]], out: Path) -> None:
    names = sorted({result["rule"] for result in results}, key=str.lower, reverse=True)
    figure, grid = plt.subplots(1, len(SIZES), figsize=(4 * len(SIZES), 0.24 * len(names) + 1.2), sharey=True)
    marks = {"eager": ("o", CURVE), "compiled": ("s", "#1f5fa8"), "NumPy": ("D", "#2e8b57"), "TorchJD": ("x", "black")}
    for axes, m in zip(grid, SIZES, strict=True):
        for kind, (marker, colour) in marks.items():
            some = [result for result in results if result["m"] == m and result["kind"] == kind]
            places = [names.index(result["rule"]) for result in some]
            axes.plot([r["microseconds"] for r in some], places, marker, color=colour, ms=4.5, label=kind)
            for place, result in zip(places, some, strict=True):
                axes.plot(result["quartiles"], [place, place], color=colour, lw=1)
        axes.set(xscale="log", title=f"m = {m} losses", xlabel="µs per call")
        axes.grid(alpha=0.3)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    grid[0].legend(fontsize=7, loc="lower right")
    figure.suptitle("Time of one call of each rule, CPU, float32: median and quartiles", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(out / "time.png", dpi=110)
    plt.close(figure)


def write(out: Path, name: str, record: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, default=float) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="toy,agreement,time", help="which of toy, agreement, time")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--compile-seconds", type=float, default=60, metavar="S", help="no larger m beyond this; 0: compile nothing"
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of losses, for the part `time`")
    parser.add_argument("--only", default="", help="names of rules, for the part `time`")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="a few steps and rounds, to see that it runs")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    parts = arguments.parts.split(",")
    if "toy" in parts:
        run_toy(100 if arguments.quick else 2500, arguments.out)
    if "agreement" in parts:
        run_agreement(3 if arguments.quick else 60, arguments.out)
    if "time" in parts:
        only = set(filter(None, arguments.only.split(",")))
        run_time(
            5 if arguments.quick else arguments.rounds,
            arguments.compile_seconds,
            only,
            tuple(map(int, arguments.sizes.split(","))),
            arguments.out,
        )


if __name__ == "__main__":
    main()
