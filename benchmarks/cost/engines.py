"""What do many losses cost, in time and memory, with rows, batched, without rows, and with TorchJD's engine?

    python -m benchmarks.cost.engines [--ms 2,4,...,256] [--rounds N] [--device cuda] [--quick]

Two problems on one perceptron, UPGrad throughout, each as a ratio to the step on the summed loss:

- **heads**: m linear heads on one trunk, a batch of 128.
- **samples**: one loss for each of m samples, ours as one vector; TorchJD's engine with its batch dimension.

Time is that of a whole step, interleaved; memory is the peak of two steps beyond the plain step's peak, in units of the
parameters' size. Results are written after every m to ``benchmarks/results/engines/``. A way that cannot run a problem
is named with its error and left out.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.cells import Batch, Call, Cell, print_failed
from benchmarks.cost.losses import WIDTH, shared_trunk
from benchmarks.cost.memory import peak_of
from benchmarks.cost.peers import torchjd_engine, torchjd_engine_by_sample
from benchmarks.cost.problem import Problem
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.variants import PLAIN, ours, started
from benchmarks.models import mlp
from benchmarks.pictures import BLUE, GREEN, INK, RED, SKY, log_axis, panels, picture, save
from benchmarks.record import device_arguments, write_results
from gradweight.rules import UPGrad

ENGINES = {
    "rows": ("autograd", BLUE),
    "batched": ("batched", SKY),
    "without rows": ("gram", GREEN),
}
PEER = "TorchJD autogram"


def samples(m: int) -> Cell:
    """One loss for each sample."""

    def outputs(call: Call, batch: Batch) -> dict[str, Tensor]:
        return {"sample": (call(batch[0]) - 1).square().mean(1)}

    return Cell(
        f"samples, m = {m}",
        lambda: mlp(WIDTH, 4, inputs=64, outputs=1),
        lambda device: (torch.randn(m, 64, device=device),),
        outputs,
        lambda outputs: outputs,
        rounds=40,
    )


PROBLEMS: dict[str, Callable[[int], Cell]] = {"heads": shared_trunk, "samples": samples}


def summed(problem: Problem) -> Callable[[], None]:
    """The step on the sum of all values."""

    def step() -> None:
        torch.stack([loss.sum() for loss in problem.losses().values()]).sum().backward()  # type: ignore[no-untyped-call]
        problem.base.step()
        problem.base.zero_grad()

    return step


def ways_for(problem: str) -> dict[str, Callable[[Problem], Callable[[], None]]]:
    ways: dict[str, Callable[[Problem], Callable[[], None]]] = {PLAIN: summed}
    for name, (engine, _) in ENGINES.items():
        ways[name] = ours(UPGrad(), engine=engine, accumulate=False)
    if find_spec("torchjd"):
        ways[PEER] = torchjd_engine if problem == "heads" else torchjd_engine_by_sample
    return ways


def measure(problem: str, m: int, device: torch.device, rounds: int, seconds: float) -> dict[str, Any]:
    cell, ways = PROBLEMS[problem](m), ways_for(problem)
    ready = Problem.of(cell, device)
    size = sum(p.nbytes for p in ready.net.parameters())
    steps, failed = started(ways, ready)
    times = interleaved(steps, rounds=rounds, seconds=seconds, device=device, title=cell.title)
    del ready
    peaks = {name: peak_of(ways[name], cell, device) for name in steps}
    beyond = {name: (peak - peaks[PLAIN]) / size for name, peak in peaks.items()}
    return {"problem": problem, "m": m, **beside_plain(times, PLAIN), "memory_beyond": beyond, "failed": failed}


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A column for each problem that there is: time above, memory below, a line for each engine."""
    problems = list(dict.fromkeys(r["problem"] for r in results))  # a logarithmic axis of nothing cannot be drawn
    figure, axes = panels(2, len(problems), 6.4, sharex="col")
    colours = {name: colour for name, (_, colour) in ENGINES.items()} | {PEER: RED}
    for column, problem in enumerate(problems):
        above, below = axes[:, column]
        rows = [r for r in results if r["problem"] == problem]
        ms = [r["m"] for r in rows]
        for name, colour in colours.items():
            some = [r for r in rows if name in r["ratio_quartiles"]]
            style = {"color": colour, "ms": 4, "label": name}
            above.plot([r["m"] for r in some], [r["ratio_quartiles"][name][1] for r in some], "o-", **style)
            below.plot([r["m"] for r in some], [r["memory_beyond"][name] for r in some], "o-", **style)
        above.set_title({"heads": "m heads on one trunk", "samples": "one loss for each of m samples"}[problem])
        above.axhline(1, color=INK, lw=0.8)
        log_axis(above, "y", "", (0.5, 1, 2, 4, 8, 16, 32, 64, 128))
        below.set_yscale("symlog", linthresh=1)
        below.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        log_axis(below, "x", "losses m", ms)
    axes[0, 0].set_ylabel("time of a step / plain step (log scale)")
    axes[1, 0].set_ylabel("memory beyond the plain step /\nsize of the parameters (log scale from 1 on)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help="steps of each way; default 20, quick 3")
    parser.add_argument("--ms", default=None, help="comma-separated; default 2 to 256, quick 2 and 8")
    arguments = device_arguments(parser, "engines")
    ms = [int(m) for m in (arguments.ms or ("2,8" if arguments.quick else "2,4,8,16,32,64,128,256")).split(",")]
    rounds = arguments.rounds or (3 if arguments.quick else 20)
    results: list[dict[str, Any]] = []
    for problem, m in itertools.product(PROBLEMS, ms):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peer
            result = measure(problem, m, arguments.device, rounds, min(arguments.seconds, 40.0))
        results.append(result)
        memory = result["memory_beyond"]
        cells = (f"{n} {q[1]:.2f}, {memory[n]:+.1f} k" for n, q in result["ratio_quartiles"].items() if n != PLAIN)
        print(f"{problem}, m = {m:3}: plain {result['plain_ms']:8.2f} ms   {'   '.join(cells)}")
        print_failed(result["failed"])
        write_results(arguments.out / "engines.json", arguments.device, results)
        draw(results, arguments.out / "engines.png")  # at once, for whoever stops it


if __name__ == "__main__":
    main()
