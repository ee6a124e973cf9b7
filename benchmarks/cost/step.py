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

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from benchmarks.cost.cells import CELLS, cells_to_run, print_failed
from benchmarks.cost.problem import Problem
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.variants import PLAIN, started, variants
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


COLOURS = {"gradweight": "#0072b2", "LossBalancer": "#56b4e9", "TorchJD": "#e69f00", "conflictfree": "#d55e00"}


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A panel for each cell, a bar for each variant, the plain step as the line at 1."""
    columns = min(2, len(results))
    rows = -(-len(results) // columns)
    tallest = max(len(result["ratio_quartiles"]) for result in results)
    size = (7.5 * columns, (0.9 + 0.21 * tallest) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for place in axes.flat[len(results) :]:
        place.axis("off")
    for place, result in zip(axes.flat, results, strict=False):
        ratios = {name: q for name, q in result["ratio_quartiles"].items() if name != PLAIN}
        for i, (name, (low, median, high)) in enumerate(ratios.items()):
            colour = next((c for start, c in COLOURS.items() if name.startswith(start)), "#777777")
            place.barh(
                i, median - 1, left=1, xerr=[[median - low], [high - median]], color=colour, error_kw={"lw": 0.8}
            )
            place.text(max(high, 1) * 1.02, i, f"{median:.2f}", va="center", fontsize=7)
        place.axvline(1, color="black", lw=0.8)
        place.set_yticks(range(len(ratios)), list(ratios), fontsize=7)
        place.invert_yaxis()
        place.set_xscale("log", base=2)
        highest = max(high for _, _, high in ratios.values())
        lowest = 0.95 * min(0.9, *(low for low, _, _ in ratios.values()))
        place.set_xlim(lowest, highest * 1.3)
        ticks = [t for t in (0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if lowest <= t <= highest]
        place.set_xticks(ticks, [f"{t:g}" for t in ticks], fontsize=7)
        place.minorticks_off()
        place.set_title(f"{result['title']}: plain step {result['plain_ms']:.3g} ms ({result['device']})", fontsize=9)
    figure.supxlabel("time of a step / plain step on the summed loss (median, quartiles)", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
