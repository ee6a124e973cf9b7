"""What does the combination cost by itself, for k parameters and m losses?

    python -m benchmarks.cost.overhead [--ks 10000,...] [--ms 2,...] [--memory GIB] [--device cuda] [--quick]

The combination is what happens between gradients that exist and a direction in ``.grad``: Gram matrix, rule,
weighted sum. Measured, with the gradients in tensors of at most 2 ** 22 elements:

- **counts**, by a dispatch mode (``benchmarks/cost/counting.py``), where k <= 1e7: operations per parameter, to be held
  against m (m + 1) + 2 m - 1 (at m = 2 the 9 k of the first paper); elements moved per parameter through a cache of
  32 MiB, against the 2 m + 1 of reading each gradient twice and writing the direction once; operators dispatched;
  k-sized allocations.
- **time**, as a share of the bandwidth that a plain copy of k elements reaches, the two in turn: (2 m + 1) k elements
  over the time of the combination, to 2 k over that of the copy.
- **launches**: operators dispatched, and the time, for a million parameters in 1 to 1,000 tensors.

Results are written after every row to ``benchmarks/results/overhead/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.cost.counting import count
from benchmarks.cost.timing import interleaved, quartiles
from benchmarks.pictures import BLUE, INK, log_axis, name_ends, panels, picture, save
from benchmarks.record import device_arguments, machine_record
from gradweight.distributed.sums import ReplicatedSums
from gradweight.gradients.accumulation import AccumulatedGradients
from gradweight.linalg.gram import gram
from gradweight.linalg.rows import Row
from gradweight.linalg.weighted_sum import weighted_sum
from gradweight.rules import AngleBisector
from gradweight.step.combiner import Combiner
from gradweight.step.combiner_input import CombinerInput
from gradweight.step.replay import Replay

LARGEST_TENSOR = 2**22
COUNTED_UP_TO = 10**7


def pieces(k: int, tensors: int) -> list[int]:
    """k split into so many sizes that differ by at most 1."""
    return [k // tensors + (i < k % tensors) for i in range(tensors)]


def combination(k: int, m: int, tensors: int, device: torch.device) -> Callable[[], None]:
    """One combination of m gradients of k elements each into a direction that is kept."""
    sizes = pieces(k, tensors)
    rows: list[Row] = [[torch.randn(n, device=device) for n in sizes] for _ in range(m)]
    out: list[Tensor | None] = [torch.zeros(n, device=device) for n in sizes]
    rule = AngleBisector()

    def run() -> None:
        weighted_sum(rows, rule(gram(rows)), out)

    return run


def replayed(k: int, m: int, tensors: int, device: torch.device) -> Callable[[], None]:
    """The same as a step does it on a GPU, recorded as a CUDA graph."""
    sizes = pieces(k, tensors)
    params = [torch.empty(n, device=device) for n in sizes]
    rows: list[Row] = [[torch.randn(n, device=device) for n in sizes] for _ in range(m)]
    out: list[Tensor | None] = [torch.zeros(n, device=device) for n in sizes]
    names = tuple(f"loss {i}" for i in range(m))
    given = AccumulatedGradients(names, params, rows, torch.ones(m, device=device), {})
    combine, sums = Replay(Combiner(AngleBisector())), ReplicatedSums(params)

    def run() -> None:
        combine(CombinerInput(given, None, {}, out, sums))

    return run


def copy(k: int, device: torch.device) -> Callable[[], None]:
    """A plain copy of k elements."""
    source, target = torch.randn(k, device=device), torch.zeros(k, device=device)

    def run() -> None:
        target.copy_(source)

    return run


def measure(k: int, m: int, tensors: int, device: torch.device, rounds: int, seconds: float) -> dict[str, Any]:
    """Counts and times for one size."""
    ours = combination(k, m, tensors, device)
    result: dict[str, Any] = {"k": k, "m": m, "tensors": tensors, "floor_operations": m * (m + 1) + 2 * m - 1}
    result["floor_moved"] = 2 * m + 1
    if k <= COUNTED_UP_TO and device.type == "cpu":  # kernels of our own are not counted
        counted = count(ours, min(500, k // tensors))
        result |= {
            "operations": round(counted.operations / k, 4),
            "moved": round(counted.moved / k, 4),
            "launches": counted.launches,
            # of a size that comes near a gradient's: the sums of many pieces are not what is meant
            "allocations": count(ours, max(500, k // tensors // 4)).allocations,
            "not_counted": sorted(counted.unknown),
        }
    ways = {"combination": ours, "copy": copy(k, device)}
    if device.type == "cuda":
        ways["replayed"] = replayed(k, m, tensors, device)
    times = interleaved(ways, rounds=rounds, seconds=seconds, warmups=3, device=device, title=f"k = {k:.0e}, m = {m}")

    def shares(way: str) -> list[float]:
        return quartiles([(2 * m + 1) / 2 * c / t for t, c in zip(times[way], times["copy"], strict=True)])

    if "replayed" in times:
        result["replayed_ms"] = round(statistics.median(times["replayed"]) * 1e3, 4)
        result["replayed_share_quartiles"] = shares("replayed")
    return result | {
        "combination_ms": round(statistics.median(times["combination"]) * 1e3, 4),
        "copy_ms": round(statistics.median(times["copy"]) * 1e3, 4),
        "share_quartiles": shares("combination"),
    }


LINES = ("#08306b", "#2171b5", "#009e73", "#b87a00", "#d55e00")
"""From the fewest losses to the most, each dark enough for a line on a light page."""


@picture()
def draw(results: list[dict[str, Any]], launches: list[dict[str, Any]], path: Path) -> None:
    """Left: share of the copy's bandwidth over k, a line for each m. Right: time over the number of tensors."""
    figure, axes = panels(1, 2, 3.8, width_ratios=[1.3, 1])
    left, right = axes[0]
    ends, ks = [], sorted({r["k"] for r in results})
    for m, colour in zip(sorted({r["m"] for r in results}), LINES, strict=False):
        rows = sorted((r for r in results if r["m"] == m), key=lambda r: r["k"])
        low, median, high = zip(*(r["share_quartiles"] for r in rows), strict=True)
        x = [r["k"] for r in rows]
        left.plot(x, median, "o-", color=colour, ms=4)
        left.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        if x[-1] < ks[-1]:  # to where its name stands
            left.plot([x[-1], 1.5 * ks[-1]], [median[-1]] * 2, color=colour, lw=0.7, ls=":")
        ends.append((f"{m} losses", median[-1], colour))
    left.axhline(0.7, color=INK, lw=0.8, ls="--")
    left.text(ks[0], 0.72, "target from 25 M parameters on")
    left.set(xlim=(0.6 * ks[0], 1.5 * ks[-1]), ylim=(0, 1.05 * max(1.0, *(r["share_quartiles"][1] for r in results))))
    left.set(ylabel="bandwidth of the combination / of a plain copy", title="Bandwidth, by size")
    names = {1e4: "10 k", 1e5: "100 k", 1e6: "1 M", 1e7: "10 M", 1e8: "100 M", 1e9: "1 G"}
    log_axis(left, "x", "parameters k", names, names.__getitem__)
    name_ends(left, ends)

    times = [r["combination_ms"] for r in launches]
    right.plot([r["tensors"] for r in launches], times, "o-", color=BLUE)
    for r in (r for r in launches if "launches" in r):
        last = r is launches[-1]  # no room to its right
        place = {"xytext": (-9, 3), "ha": "right"} if last else {"xytext": (6, -12), "ha": "left"}
        at = (r["tensors"], r["combination_ms"])
        right.annotate(f"{r['launches']:,} operators", at, textcoords="offset points", **place)
    if launches:
        right.set(xlim=(0.4, 2500), ylim=(0.7 * min(times), 3 * max(times)), title="A million parameters, two losses")
        log_axis(right, "x", "tensors that they lie in", (1, 10, 100, 1000))
        log_axis(right, "y", "time of the combination, ms", (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50))
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ks", default=None, help="comma-separated; default 1e4 to 1e9, quick 1e4 to 1e7")
    parser.add_argument("--ms", default="2,3,4,8,16", help="comma-separated")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that gradients and direction may take")
    parser.add_argument("--rounds", type=int, default=None)
    arguments = device_arguments(parser, "overhead")
    largest = 7 if arguments.quick else 9
    ks = [int(float(k)) for k in (arguments.ks or ",".join(f"1e{i}" for i in range(4, largest + 1))).split(",")]
    if arguments.ks is None and not arguments.quick:
        ks.append(25_000_000)
    rounds = arguments.rounds or (7 if arguments.quick else 21)
    device, seconds = arguments.device, min(arguments.seconds, 10.0)

    def fits(k: int, m: int) -> bool:
        return 4 * k * (m + 3) <= arguments.memory * 2**30  # and the two tensors of the copy

    def save() -> None:
        record = {"machine": machine_record(), "device": device.type, "sizes": results, "tensors": launches}
        (arguments.out / "overhead.json").write_text(json.dumps(record, indent=2) + "\n")

    results: list[dict[str, Any]] = []
    launches: list[dict[str, Any]] = []
    cases = [(k, m) for m in map(int, arguments.ms.split(",")) for k in sorted(ks) if fits(k, m)]
    print(
        "         k   m  operations/k  moved/k (floor)  operators  allocations   ms        share of a copy's bandwidth"
    )
    try:
        for k, m in tqdm(cases, leave=False):
            r = measure(k, m, -(-k // LARGEST_TENSOR), device, rounds, seconds)
            results.append(r)
            save()
            counts = " " * 50
            if "operations" in r:
                counts = f"{r['operations']:8.2f}      {r['moved']:8.2f} ({r['floor_moved']:2})"
                counts += f"  {r['launches']:9}  {r['allocations']:11}"
            low, median, high = r["share_quartiles"]
            line = f"{k:10} {m:3}  {counts}   {r['combination_ms']:8.3f}  {median:.2f} [{low:.2f}, {high:.2f}]"
            if "replayed_ms" in r:
                line += f"   replayed {r['replayed_ms']:8.3f}  {r['replayed_share_quartiles'][1]:.2f}"
            print(line)
        print("\na million parameters, m = 2, in so many tensors: operators, ms")
        for tensors in (1, 10, 100, 1000):
            r = measure(10**6, 2, tensors, device, rounds, seconds)
            launches.append(r)
            save()
            print(f"{tensors:6}  {r.get('launches', ''):8}  {r['combination_ms']:8.3f}")
    finally:  # whoever is stopped draws what there is
        if results:
            draw(results, launches, arguments.out / "overhead.png")


if __name__ == "__main__":
    main()
