"""What does a step of several processes cost, and how much does it send? And a paper estimate for 8 to 4,096 GPUs.

    python -m benchmarks.cost.distributed [--processes 2] [--problems small,10m] [--losses 2,4] [--rounds N] [--quick]
    torchrun --nproc-per-node 2 benchmarks/cost/distributed.py
    python -m benchmarks.cost.distributed --estimate      # no measurement: the table of docs/distributed.md
    python -m benchmarks.cost.distributed --page          # writes all tables into docs/distributed.md, and the figure

Processes of one gloo group on this machine train one network after the other; the modes take turns step by step, and
every step is divided by the step of DDP on the summed loss in the same round. A time is that from one barrier to the
next. Bytes are those that the kernel has sent over TCP (Linux). Results are written after every problem to
``benchmarks/results/distributed/``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from benchmarks.cost import distributed_memory
from benchmarks.cost.distributed_estimate import estimate
from benchmarks.cost.modes import EACH_BY_FSDP2, PLAIN, PROBLEMS, expected_bytes, modes
from benchmarks.cost.timing import beside_plain, interleaved
from benchmarks.cost.wire import sent_bytes
from benchmarks.folders import CITED, ROOT, add_output_arguments, output_folder
from benchmarks.pictures import BLUE, GREY, INK, PAPER, RED, log_axis, panels, picture, save
from benchmarks.record import machine_record
from benchmarks.tables import markdown

PAGE = ROOT / "docs" / "distributed.md"


def measure(name: str, m: int, rounds: int) -> dict[str, Any]:
    """Times and bytes of every mode; called by all processes, each returns the same bytes and its own times."""
    problem, n = PROBLEMS[name], distributed.get_world_size()
    steps = modes(problem, m)

    def between_barriers(step: Callable[[], None]) -> Callable[[], None]:
        return lambda: (step(), distributed.barrier())[0]  # type: ignore[func-returns-value]

    with open(os.devnull, "w") as nowhere:
        silent = contextlib.redirect_stderr(nowhere) if distributed.get_rank() else contextlib.nullcontext()
        with silent:
            times = interleaved(
                {mode: between_barriers(step) for mode, step in steps.items()},
                rounds=rounds,
                turn=0,
                title=f"{problem.title}, m = {m}",
            )
    sent = {mode: bytes_of(step) for mode, step in steps.items()}
    k = sum(p.numel() for p in problem.network().parameters())
    return {
        "problem": name,
        "title": problem.title,
        "parameters": k,
        "losses": m,
        "processes": n,
        **beside_plain(times, PLAIN),
        "bytes_sent": sent,
        "bytes_expected": {mode: expected_bytes(mode, k, m, n, sent[EACH_BY_FSDP2]) for mode in steps},
        "machine": machine_record(),
    }


def bytes_of(step: Callable[[], None]) -> float | None:
    """What a process sends in one step, the mean over all of them."""
    distributed.barrier()
    counts = [sent_bytes()]
    distributed.barrier()
    counts.append(sent_bytes())
    step()
    distributed.barrier()
    counts.append(sent_bytes())
    before, idle, after = counts
    mine = -1.0 if before is None or idle is None or after is None else float((after - idle) - (idle - before))
    total = torch.tensor([mine], dtype=torch.float64)
    distributed.all_reduce(total)
    return None if mine < 0 else float(total) / distributed.get_world_size()


def in_rows(result: dict[str, Any], sent: float | None) -> str:
    """Bytes in units of k(n - 1)/n float32 elements: what a reduce-scatter of one gradient sends."""
    n = result["processes"]
    return "" if sent is None else f"{sent / (4 * result['parameters'] * (n - 1) / n):.2f}"


def table(record: dict[str, Any]) -> str:
    """Two columns for each problem: time and bytes."""
    results = record["results"]
    header = ["of a step"]
    for r in results:
        size = f"{r['parameters'] / 1e6:.2g} M, m = {r['losses']}"
        header += [f"{size}: time", "sent", "formula"]
    rows = []
    for mode in results[0]["ratio_quartiles"]:
        row = [mode]
        for r in results:
            plain = f"{r['plain_ms']:.3g} ms" if r["plain_ms"] < 1000 else f"{r['plain_ms'] / 1e3:.3g} s"
            time = plain if mode == PLAIN else f"{r['ratio_quartiles'][mode][1]:.2f}"
            row += [time, in_rows(r, r["bytes_sent"][mode]), in_rows(r, r["bytes_expected"][mode])]
        rows.append(row)
    machine, loads = results[0]["machine"], [r["machine"]["load"] for r in results]
    source = (
        f"`{machine['command']}`, {machine['date'][:10]}: {results[0]['processes']} processes on {machine['cpu']}, "
    )
    source += f"{machine['cores']} cores, torch {machine['torch']}, load average {min(loads)} to {max(loads)}."
    return f"{markdown(header, rows)}\n\n{source}"


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A column for each network: above the times over DDP's, below what is sent, with what the formula says."""
    names = list(results[0]["ratio_quartiles"])
    networks = list(dict.fromkeys(r["problem"] for r in results))
    figure, axes = panels(2, len(networks), 2.2 + 0.6 * len(names), sharey=True)
    for (above, below), network in zip(axes.T, networks, strict=True):
        some = [r for r in results if r["problem"] == network]
        for k, r in enumerate(some):  # one number of losses under the other
            shift = 0.5 * ((k + 0.5) / len(some) - 0.5)
            unit = 4 * r["parameters"] * (r["processes"] - 1) / r["processes"]
            for i, name in enumerate(names):
                look = {"color": BLUE if name.startswith("gradweight") else GREY}
                look |= {"marker": "os^D"[k], "mfc": None if k == 0 else PAPER, "ms": 6}
                low, median, high = r["ratio_quartiles"][name]
                above.plot([low, high], [i + shift] * 2, color=look["color"], lw=1.2)
                above.plot(median, i + shift, **look)
                if r["bytes_sent"][name] is not None:
                    below.plot(r["bytes_sent"][name] / unit, i + shift, **look)
                if r["bytes_expected"][name] is not None:
                    edges = [i + shift - 0.22, i + shift + 0.22]
                    below.plot([r["bytes_expected"][name] / unit] * 2, edges, color=RED, lw=1.5, zorder=1)
        above.set_title(f"{some[0]['title']}: {some[0]['parameters'] / 1e6:.2g} M parameters")
        quartiles = [q for r in some for each in r["ratio_quartiles"].values() for q in each]
        above.set_xlim(0.85 * min(quartiles), 1.15 * max(quartiles))
        above.axvline(1, color=INK, lw=0.8)
        log_axis(above, "x", "time / DDP, summed loss", [0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24])
        below.set(xlabel="gradients sent, of k (n - 1) / n numbers", xlim=(0, None))
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(names)), [name.replace(", added up", ",\nadded up") for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
    key = axes[0, 0]
    for k, m in enumerate(dict.fromkeys(r["losses"] for r in results)):
        key.plot([], [], "os^D"[k], color=GREY, mfc=None if k == 0 else PAPER, ms=6, label=f"{m} losses")
    key.plot([], [], color=BLUE, lw=4, label="gradweight")
    key.plot([], [], color=GREY, lw=4, label="summed, or each loss by itself")
    key.plot([], [], "|", color=RED, ms=9, mew=1.5, label="sent, by the formula")
    figure.legend(*key.get_legend_handles_labels(), loc="outside upper center", ncols=5, columnspacing=1.2)
    save(figure, path)


def work(rank: int, arguments: argparse.Namespace, rendezvous: str | None) -> None:
    """All measurements, on one of the processes; rank 0 writes."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // arguments.processes))
    if rendezvous is None:
        distributed.init_process_group("gloo")
    else:
        size = arguments.processes
        distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    results = []
    for name in arguments.problems.split(","):
        for m in map(int, arguments.losses.split(",")):
            results.append(measure(name, m, arguments.rounds))
            if distributed.get_rank() == 0:
                record = {"machine": machine_record(), "results": results}
                (arguments.out / "distributed.json").write_text(json.dumps(record, indent=2) + "\n")
                draw(results, arguments.out / "distributed.png")
    if distributed.get_rank() == 0:
        print(table(record))
    distributed.destroy_process_group()


def filled(page: str, results: Path = CITED / "distributed") -> str:
    """The page with the tables of what was measured, here and in `distributed_memory`, and of what was estimated."""

    def measured(path: Path, table: Callable[[dict[str, Any]], str]) -> str:
        return table(json.loads(path.read_text())) if path.exists() else "*Not measured yet.*"

    tables = {
        "distributed": measured(results / "distributed.json", table),
        "distributed memory": measured(
            CITED / "distributed_memory" / "distributed_memory.json", distributed_memory.table
        ),
        "estimate": estimate(),
    }
    for name, text in tables.items():
        block = f"<!-- table: {name} -->\n\n{text}\n\n<!-- end -->"
        page = re.sub(rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, b=block: b, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many (torchrun decides for itself)")
    parser.add_argument("--problems", default=None, help="comma-separated: " + ", ".join(PROBLEMS))
    parser.add_argument("--losses", default=None, help="comma-separated numbers of losses (default: 2,4)")
    parser.add_argument("--rounds", type=int, default=None, help="steps of each mode (default: 40)")
    parser.add_argument("--quick", action="store_true", help="the small network, two losses, a fifth of the rounds")
    parser.add_argument("--estimate", action="store_true", help="measure nothing, print the paper estimate")
    parser.add_argument("--page", action="store_true", help="measure nothing, write all tables into the page, draw")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if arguments.estimate:
        print(estimate())
        return
    if arguments.page:
        arguments.out = arguments.out or CITED / "distributed"
        PAGE.write_text(filled(PAGE.read_text(), arguments.out))
        draw(json.loads((arguments.out / "distributed.json").read_text())["results"], arguments.out / "distributed.png")
        return
    arguments.out = output_folder(arguments, "distributed")
    arguments.problems = arguments.problems or ("small" if arguments.quick else ",".join(PROBLEMS))
    arguments.losses = arguments.losses or ("2" if arguments.quick else "2,4")
    arguments.rounds = arguments.rounds or (8 if arguments.quick else 40)
    if distributed.is_torchelastic_launched():
        arguments.processes = int(os.environ["WORLD_SIZE"])
        work(int(os.environ["RANK"]), arguments, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (arguments, f"{folder}/rendezvous"), nprocs=arguments.processes)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
