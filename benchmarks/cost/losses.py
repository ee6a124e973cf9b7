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

import torch
from torch import Tensor, nn

from benchmarks.cost.cells import Batch, Call, Cell, print_failed
from benchmarks.cost.peers import torchjd
from benchmarks.cost.problem import Problem
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.variants import PLAIN, ours, plain, started
from benchmarks.models import mlp
from benchmarks.pictures import BLUE, GREEN, INK, ORANGE, RED, SKY, log_axis, name_ends, panels, picture, save
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
    "gradweight Sum": (SKY, "gradweight, Sum"),
    "gradweight AngleBisector": (BLUE, "gradweight"),
    "gradweight AngleBisector, shared=": (GREEN, "gradweight, shared="),
    "TorchJD IMTLG, sequential": (ORANGE, "TorchJD, sequential"),
    "TorchJD IMTLG, batched": (RED, "TorchJD, batched"),
}


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A panel for each problem, a line for each way, its name at its end."""
    figure, axes = panels(1, 2, 3.8, sharey=True)
    for place, problem in zip(axes[0], PROBLEMS, strict=True):
        rows = [r for r in results if r["problem"] == problem]
        ms, ends = [r["m"] for r in rows], []
        for name, (colour, label) in STYLES.items():
            points = [(r["m"], *r["ratio_quartiles"][name]) for r in rows if name in r["ratio_quartiles"]]
            if points:
                x, low, median, high = zip(*points, strict=True)
                place.plot(x, median, "o-", color=colour, ms=4)
                place.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
                ends.append((label, median[-1], colour))
        if problem == "shared trunk" and rows:
            bound = [(1 + 2 * m) / 3 for m in ms]
            place.plot(ms, bound, color=INK, lw=1, ls="--", zorder=1)
            place.plot([], [], color=INK, lw=1, ls="--", label="m backward passes\ninstead of one: (1 + 2 m) / 3")
            place.legend(loc="upper left")
        place.axhline(1, color=INK, lw=0.8)
        place.set_title(
            f"{problem}: one forward pass, m heads" if problem == "shared trunk" else f"{problem}: m batches"
        )
        place.set_ylim(0.85, 48)
        log_axis(place, "x", "losses m", ms)
        log_axis(place, "y", "", (1, 2, 4, 8, 16, 32))
        name_ends(place, ends)
    axes[0, 0].set_ylabel("time of a step / plain step (log scale)")
    save(figure, path)


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
