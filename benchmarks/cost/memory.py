"""How much memory does a step take at its peak, beyond the step on the summed loss?

    python -m benchmarks.cost.memory [--cells mlp,dcgan,...] [--device cuda] [--quick]

The cells and variants of `step`. Each variant starts from a fresh network and takes two steps, with the outputs and
losses of the first still in variables during the second forward pass, as in a training loop. What it held at its peak,
less the state of Adam, is what activations, gradients and combination need together. Beyond the plain step there are
m - 1 further gradients if they are combined in place, and m if they are kept for accumulation: the floors, in units of
the parameters' size. A step that peaks in its activations, before it has all gradients, stays below them. The numbers
are bytes counted by the allocator, not times: any machine gives the same. Results are written after every cell to
``benchmarks/results/memory/``.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.cost.cells import CELLS, Cell, cells_to_run, print_failed
from benchmarks.cost.peak import peak_bytes
from benchmarks.cost.problem import Problem
from benchmarks.cost.variants import PLAIN, plain, variants
from benchmarks.pictures import BLUE, GREY, INK, LINE, ORANGE, RED, SKY, panels, picture, save
from benchmarks.record import device_arguments, keep_by_cell, machine_record


def peak_of(make: Callable[[Problem], Callable[[], None]], cell: Cell, device: torch.device) -> int:
    """Bytes at the peak of two steps beyond the parameters, the batch and Adam's state."""
    problem = Problem.of(cell, device)
    step = make(problem)

    def two_steps() -> None:
        step()
        step()

    peak = peak_bytes(two_steps, device)
    state = [t for of_one in problem.base.state.values() for t in of_one.values() if isinstance(t, Tensor)]
    return peak - sum(t.nbytes for t in state)


def measure(name: str, device: torch.device, parts: str) -> dict[str, Any]:
    """The peak of every variant of a cell."""
    cell = CELLS[name]
    peaks: dict[str, int] = {}
    failed: dict[str, str] = {}
    if device.type == "cuda":
        peak_of(plain, cell, device)  # the libraries' workspaces are allocated once and stay
    for variant, make in tqdm(variants(cell, parts=parts).items(), desc=cell.title_on(device), leave=False):
        try:
            peaks[variant] = peak_of(make, cell, device)
        except Exception as error:
            if variant.startswith("gradweight"):
                raise
            # a peer's limits are a result, too
            failed[variant] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        gc.collect()
    problem = Problem.of(cell, device)
    size = sum(p.nbytes for p in problem.net.parameters())
    m = len(problem.losses())
    return {
        "cell": name,
        "title": cell.title_on(device),
        "device": device.type,
        "losses": m,
        "parameter_bytes": size,
        "floor_in_place": m - 1,
        "floor_kept": m,
        "peak_bytes": peaks,
        "extra_in_parameters": {variant: round((peak - peaks[PLAIN]) / size, 3) for variant, peak in peaks.items()},
        "failed": failed,
        "machine": machine_record(),
    }


SHOWN = {
    "gradweight AngleBisector, in place": ("gradweight, in place", BLUE, "o"),
    "gradweight AngleBisector": ("gradweight, kept for accumulation", SKY, "s"),
    "TorchJD UPGrad, sequential, Gramian path": ("TorchJD, UPGrad", ORANGE, "^"),
    "TorchJD ConFIG, sequential": ("TorchJD, ConFIG", RED, "v"),
    "conflictfree ConFIG": ("conflictfree, ConFIG", GREY, "D"),
}


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A row for each cell: how many times the parameters each variant holds beyond the plain step."""
    figure, axes = panels(1, 1, 1.4 + 0.55 * len(results))
    axis = axes[0, 0]
    for row, result in enumerate(results):
        for floor in (result["floor_in_place"], result["floor_kept"]):
            axis.plot([floor, floor], [row - 0.4, row + 0.4], color=INK, lw=1.2)
        names = [name for name in SHOWN if name in result["extra_in_parameters"]]
        for i, name in enumerate(names):  # one under the other, so that none hides another
            y = row + 0.6 * ((i + 0.5) / len(names) - 0.5)
            axis.plot(result["extra_in_parameters"][name], y, SHOWN[name][2], color=SHOWN[name][1], ms=6.5, mew=0)
        if row:
            axis.axhline(row - 0.5, color=LINE, lw=0.8)
    for label, colour, marker in SHOWN.values():
        axis.plot([], [], marker, color=colour, ms=6.5, mew=0, label=label)
    axis.plot([], [], color=INK, lw=1.2, label="floors: m - 1 in place, m kept")
    titles = [r["title"].replace(", batch", ",\nbatch", 1).replace(", three", ",\nthree") for r in results]
    axis.set_yticks(range(len(results)), [f"{t} (m = {r['losses']})" for t, r in zip(titles, results, strict=True)])
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=5)
    axis.set_xlim(-0.5, 1.4 * max(5, *(x for r in results for x in r["extra_in_parameters"].values())))
    high = axis.get_xlim()[1]
    axis.set_xticks([x for x in (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200) if x < high])
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.minorticks_off()
    axis.set_xlabel("peak memory beyond the plain step / size of the parameters (log scale from 5 on)")
    figure.legend(loc="outside upper center", ncols=3)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=None, help="comma-separated: " + ", ".join(CELLS))
    parser.add_argument("--variants", default="", help="comma-separated parts of names; default: all")
    arguments = device_arguments(parser, "memory")

    for cell in cells_to_run(arguments.cells, arguments.device, arguments.quick):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the peers
            result = measure(cell, arguments.device, arguments.variants)
        plain_peak = result["peak_bytes"][PLAIN]
        print(f"\n{result['title']}: parameters {result['parameter_bytes'] / 2**20:.2f} MiB, plain step at its peak")
        print(
            f"  {plain_peak / 2**20:.2f} MiB; floors beyond it: {result['floor_in_place']} and {result['floor_kept']}"
        )
        for name, extra in result["extra_in_parameters"].items():
            ratio = result["peak_bytes"][name] / plain_peak
            print(f"  {name:<44} {extra:7.3f} parameters   {ratio:6.3f} x the plain peak")
        print_failed(result["failed"])
        draw(keep_by_cell(arguments.out / "memory.json", result, CELLS), arguments.out / "memory.png")


if __name__ == "__main__":
    main()
