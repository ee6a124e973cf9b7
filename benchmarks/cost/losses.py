"""How does the cost of a step grow with the number of losses, 1 to 32?

    python -m benchmarks.cost.losses [--ms 1,2,4,8,16,32] [--rounds N] [--device cuda] [--quick]

Two problems on one perceptron, each as a ratio to the step on the summed loss, interleaved:

- **shared trunk**: one forward, m linear heads. Each loss walks back through the whole trunk, so that m backwards of a
  trunk take the place of one: with a backward of twice the forward, (1 + 2 m) / 3 of the plain step is what exact
  gradients of single losses cost. ``shared=`` walks the trunk once, with weights from the gradients at its output.
- **disjoint graphs**: m batches, each with a forward of its own. The plain step grows with m as well.

Results are written after every m to ``benchmarks/results/losses/``. A peer that cannot run a problem is named with its
error and left out.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from benchmarks.cost.cells import Batch, Call, Cell, print_failed
from benchmarks.cost.peers import torchjd
from benchmarks.cost.problem import Problem
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.variants import PLAIN, ours, plain, started
from benchmarks.models import mlp
from benchmarks.record import device_arguments, write_results
from gradweight.linalg.host_access import call_with_numpy, is_host_readable
from gradweight.rule import Rule, faster_on_numpy_from
from gradweight.rules import AngleBisector, Sum

WIDTH = 512


class Heads(nn.Module):
    """A perceptron and m linear heads."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.trunk = mlp(WIDTH, 4, inputs=64, outputs=WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(m))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the heads share, and the output of each."""
        shared = self.trunk(x)
        return shared, [head(shared) for head in self.heads]


def shared_trunk(m: int) -> Cell:
    """One batch, m heads."""

    def outputs(call: Call, batch: Batch) -> dict[str, Tensor]:
        shared, found = call(batch[0])
        return {"shared": shared} | {f"loss {i}": (y - i / m).square().mean() for i, y in enumerate(found)}

    return Cell(
        f"shared trunk, m = {m}",
        lambda: Heads(m),
        lambda device: (torch.randn(128, 64, device=device),),
        outputs,
        lambda outputs: {name: loss for name, loss in outputs.items() if name != "shared"},
        rounds=40,
        shared="shared",
    )


def disjoint_graphs(m: int) -> Cell:
    """m batches through one network."""
    return Cell(
        f"disjoint graphs, m = {m}",
        lambda: mlp(WIDTH, 4, inputs=64, outputs=1),
        lambda device: tuple(torch.randn(128, 64, device=device) for _ in range(m)),
        lambda call, batch: {f"loss {i}": (call(x) - i / m).square().mean() for i, x in enumerate(batch)},
        lambda losses: losses,
        rounds=40,
    )


PROBLEMS = {"shared trunk": shared_trunk, "disjoint graphs": disjoint_graphs}


def variants(problem: str) -> dict[str, Callable[[Problem], Callable[[], None]]]:
    ways: dict[str, Callable[[Problem], Callable[[], None]]] = {
        PLAIN: plain,
        "gradweight Sum": ours(Sum(), accumulate=False),
        "gradweight AngleBisector": ours(AngleBisector(), accumulate=False),
    }
    if problem == "shared trunk":
        ways["gradweight AngleBisector, shared="] = ours(AngleBisector(), shared=True)
    if find_spec("torchjd"):
        ways["TorchJD IMTLG, sequential"] = torchjd("IMTLG", 1, gramian=True)
        ways["TorchJD IMTLG, batched"] = torchjd("IMTLG", None, gramian=True)
    return ways


def rules_alone(m: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Only what the rule does in a step: from a Gram matrix to weights, the way the wrapper calls it."""
    rows = torch.randn(m, 4 * m, device=device)
    matrix = rows @ rows.mT

    def calls(rule: Rule) -> Callable[[], object]:
        host = m >= faster_on_numpy_from(rule) and is_host_readable(matrix)
        return (lambda: call_with_numpy(rule, matrix)) if host else (lambda: rule(matrix))

    return {f"gradweight {type(rule).__name__}": calls(rule) for rule in (Sum(), AngleBisector())}


def measure(problem: str, m: int, device: torch.device, rounds: int, seconds: float) -> dict[str, Any]:
    cell = PROBLEMS[problem](m)
    ready = Problem.of(cell, device)
    ways = {name: make for name, make in variants(problem).items() if m > 1 or "batched" not in name}
    steps, failed = started(ways, ready)
    times = interleaved(steps, rounds=rounds, seconds=seconds, device=device, title=cell.title)
    rules = interleaved(rules_alone(m, device), rounds=rounds, seconds=seconds, device=device, title="rules alone")
    return {
        "rule_ms": {name: 1e3 * statistics.median(some) for name, some in rules.items()},
        "problem": problem,
        "m": m,
        **beside_plain(times, PLAIN),
        "failed": failed,
    }


STYLES = {
    "gradweight Sum": ("#56b4e9", "ours, Sum"),
    "gradweight AngleBisector": ("#0072b2", "ours"),
    "gradweight AngleBisector, shared=": ("#009e73", "ours, shared="),
    "TorchJD IMTLG, sequential": ("#e69f00", "TorchJD, sequential"),
    "TorchJD IMTLG, batched": ("#d55e00", "TorchJD, batched"),
}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for place, problem in zip(axes, PROBLEMS, strict=True):
        rows = [r for r in results if r["problem"] == problem]
        ends = []
        for name, (colour, label) in STYLES.items():
            points = [(r["m"], *r["ratio_quartiles"][name]) for r in rows if name in r["ratio_quartiles"]]
            if not points:
                continue
            ms, low, median, high = zip(*points, strict=True)
            place.plot(ms, median, "o-", color=colour, ms=4)
            place.fill_between(ms, low, high, color=colour, alpha=0.15, lw=0)
            ends.append((median[-1], ms[-1], label, colour))
        lowest = 0.0
        for y, x, label, colour in sorted(ends):  # from below, each label clear of the last
            lowest = max(y, lowest * 1.13)
            place.annotate(label, (x, lowest), textcoords="offset points", xytext=(7, -3), color=colour, fontsize=8)
        if problem == "shared trunk" and rows:
            ms = [r["m"] for r in rows]
            place.plot(ms, [(1 + 2 * m) / 3 for m in ms], color="black", lw=0.8, ls="--")
            place.annotate("(1 + 2 m) / 3", (ms[0], 1), textcoords="offset points", xytext=(0, -12), fontsize=8)
        place.axhline(1, color="black", lw=0.8)
        place.set_xscale("log", base=2)
        place.set_yscale("log", base=2)
        place.set_xlim(None, 5 * max((r["m"] for r in rows), default=1))
        ticks = [r["m"] for r in rows]
        place.set_xticks(ticks, [str(m) for m in ticks])
        place.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        place.minorticks_off()
        place.set_title(problem)
        place.set_xlabel("losses m")
    axes[0].set_ylabel("time of a step / plain step on the summed loss")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", default=None, help="comma-separated; default 1 to 32")
    parser.add_argument("--rounds", type=int, default=None)
    arguments = device_arguments(parser, "losses")
    ms = [int(m) for m in (arguments.ms or "1,2,4,8,16,32").split(",")]
    rounds = arguments.rounds or (6 if arguments.quick else 30)

    results: list[dict[str, Any]] = []
    try:
        for problem in PROBLEMS:
            for m in ms:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the peer
                    result = measure(problem, m, arguments.device, rounds, min(arguments.seconds, 40.0))
                results.append(result)
                ratios = "   ".join(
                    f"{STYLES[n][1]} {q[1]:.2f}" for n, q in result["ratio_quartiles"].items() if n != PLAIN
                )
                share = ", ".join(f"{STYLES[n][1]} {ms:.3f}" for n, ms in result["rule_ms"].items())
                print(
                    f"{problem}, m = {m:2}: plain {result['plain_ms']:8.2f} ms   {ratios}   of it the rule, ms: {share}"
                )
                print_failed(result["failed"])
                write_results(arguments.out / "losses.json", arguments.device, results)
    finally:  # whoever is stopped draws what there is
        draw(results, arguments.out / "losses.png")


if __name__ == "__main__":
    main()
