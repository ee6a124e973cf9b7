"""What does a whole training step cost, as a ratio to training on the summed loss?

    python -m benchmarks.cost.step [--cells mlp,dcgan,...] [--rounds N] [--seconds S] [--device cuda] [--quick]
    python -m benchmarks.cost.step --cells mlp --compiled           # with the compiled variants

Each cell trains one network on two to four losses: forward, backward, combination, Adam. The variants take turns step
by step in one process, and every step is divided by the plain step of the same round. Reported is the median of these
ratios with its quartiles. Results are written after every cell to ``benchmarks/results/step/``; a cell that is
measured again replaces its entry, the others keep the record of their own run.

Peers take part if they are installed: ``pip install torchjd quadprog`` and ``pip install --no-deps conflictfree``. A
variant that a cell or the machine cannot run is named with its error and left out.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost.cells import CELLS, cells_to_run, print_failed
from benchmarks.cost.problem import Problem
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.variants import PLAIN, started, variants
from benchmarks.pictures import BLUE, GREEN, GREY, INK, LINE, ORANGE, PURPLE, RED, SKY, log_axis, panels, picture, save
from benchmarks.record import device_arguments, keep_by_cell, machine_record


def measure(name: str, device: torch.device, rounds: int, seconds: float, compiled: bool, parts: str) -> dict[str, Any]:
    """Times of every variant, in turn, and their ratios to the plain step of the same round."""
    cell = CELLS[name]
    problem = Problem.of(cell, device)
    steps, failed = started(variants(cell, compiled=compiled, on_gpu=device.type == "cuda", parts=parts), problem)
    times = interleaved(steps, rounds=rounds, seconds=seconds, warmups=1, device=device, title=cell.title_on(device))
    return {
        "cell": name,
        "title": cell.title_on(device),
        "device": device.type,
        "parameters": sum(p.numel() for p in problem.net.parameters()),
        "losses": len(problem.losses()),
        **beside_plain(times, PLAIN),
        "failed": failed,
        "machine": machine_record(),
    }


SHOWN = {
    "gradweight AngleBisector, in place": ("gradweight, AngleBisector", BLUE, "o"),
    "gradweight UPGrad, in place": ("gradweight, UPGrad", SKY, "s"),
    "gradweight UPGrad, shared=": ("gradweight, UPGrad, shared=", GREEN, "P"),
    "TorchJD UPGrad, sequential, Gramian path": ("TorchJD, UPGrad", ORANGE, "^"),
    "TorchJD UPGrad, autogram": ("TorchJD, UPGrad, autogram", PURPLE, "v"),
    "conflictfree ConFIG": ("conflictfree, ConFIG", RED, "D"),
}
"""What the picture shows, of all that is measured: label, colour, mark."""

FASTER = {
    "summed loss, captured": ("summed loss, one CUDA graph", GREY, "o"),
    "gradweight AngleBisector, in place, captured": ("gradweight, one CUDA graph", BLUE, "*"),
}
TICKS = (0.125, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12)


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A row for each cell, a mark for each of the variants that one would choose from; the plain step is the line at 1.

    All variants are in the table; a step captured as a CUDA graph is beside itself, faster than the plain step.
    """
    shown = SHOWN | (FASTER if any(name in r["ratio_quartiles"] for r in results for name in FASTER) else {})
    figure, axes = panels(1, 1, 1.3 + 0.62 * len(results))
    axis = axes[0, 0]
    drawn = [[name for name in shown if name in result["ratio_quartiles"]] for result in results]
    for row, (result, names) in enumerate(zip(results, drawn, strict=True)):
        for i, name in enumerate(names):
            low, median, high = result["ratio_quartiles"][name]
            y = row + 0.7 * ((i + 0.5) / len(names) - 0.5)
            axis.plot([low, high], [y, y], color=shown[name][1], lw=1.2)
            axis.plot(median, y, shown[name][2], color=shown[name][1], ms=6.5, mew=0)
        if row:
            axis.axhline(row - 0.5, color=LINE, lw=0.8)
    for name, (label, colour, mark) in shown.items():
        if any(name in names for names in drawn):
            axis.plot([], [], mark, color=colour, ms=6.5, mew=0, label=label)
    axis.axvline(1, color=INK, lw=1)
    titles = [r["title"].replace(", batch", ",\nbatch", 1).replace(", three", ",\nthree") for r in results]
    labels = [f"{title}: {r['plain_ms']:.3g} ms" for title, r in zip(titles, results, strict=True)]
    axis.set_yticks(range(len(results)), labels)
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    axis.set_ylim(len(results) - 0.5, -0.5)
    highest = max((r["ratio_quartiles"][name][2] for r, names in zip(results, drawn, strict=True) for name in names))
    lowest = min((r["ratio_quartiles"][name][0] for r, names in zip(results, drawn, strict=True) for name in names))
    axis.set_xlim(0.94 * min(lowest, 1), 1.08 * max(highest, 1.5))
    device = results[0]["device"].replace("cuda", "GPU").replace("cpu", "CPU")
    log_axis(axis, "x", f"time of a step / plain step on the summed loss, {device}: median and quartiles", TICKS)
    figure.legend(loc="outside upper center", ncols=3)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=None, help="comma-separated: " + ", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=None, help="steps of each variant (default: by cell)")
    parser.add_argument("--variants", default="", help="comma-separated parts of names; default: all")
    parser.add_argument("--compiled", action="store_true", help="compiled variants, too; each takes up to a minute")
    arguments = device_arguments(parser, "step")

    for cell in cells_to_run(arguments.cells, arguments.device, arguments.quick):
        rounds = arguments.rounds or max(4, CELLS[cell].rounds // (5 if arguments.quick else 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers and of the compiler
            result = measure(cell, arguments.device, rounds, arguments.seconds, arguments.compiled, arguments.variants)
        print(f"\n{result['title']}: {result['parameters']:,} parameters, plain step {result['plain_ms']} ms")
        for name, (low, median, high) in result["ratio_quartiles"].items():
            print(f"  {name:<44} {median:6.3f}   [{low:.3f}, {high:.3f}]")
        print_failed(result["failed"])
        draw(keep_by_cell(arguments.out / "step.json", result, CELLS), arguments.out / "step.png")


if __name__ == "__main__":
    main()
