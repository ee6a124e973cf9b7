"""What does a backward of several processes hold at its peak?

    python -m benchmarks.distributed_memory [--processes 2,4] [--losses 2,4] [--quick]

Gloo processes on this machine, each of which takes one step on a deep perceptron: 25 M parameters in layers of a
million, so that a bucket is small beside them, and few samples, so that activations are. Counted is what
`MultiObjectiveGradient.backward` holds at once beyond the parameters, forward included, on the process that holds most:
rows, what travels, and the direction. Bytes are the allocator's, not times: any machine gives the same. FSDP2 is left
out: what it holds itself depends on when gloo's threads let go of it.
Results are written after every number of processes to ``benchmarks/results/distributed_memory/``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing, nn
from tqdm import tqdm

from benchmarks.cost.peak import peak_bytes
from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.models import mlp
from benchmarks.record import machine_record
from benchmarks.tables import markdown
from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

WIDTH, SAMPLES = 1024, 4
MODES: dict[str, dict[str, Any]] = {
    "one process": {"process_group": False},
    '`reduce="all"`': {"reduce": "all"},
    '`reduce="scatter"`': {"reduce": "scatter"},
}


def network(depth: int) -> nn.Sequential:
    """The same on every process."""
    torch.manual_seed(0)
    return mlp(WIDTH, depth, inputs=WIDTH)


def peak(mode: str, m: int, depth: int) -> int:
    """Bytes on this process at the peak of the first backward, the kept direction included."""
    net = network(depth)
    settings = {"process_group": distributed.group.WORLD} | MODES[mode]
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), 0.1), AngleBisector(), **settings)
    batches = [torch.randn(SAMPLES, WIDTH) for _ in range(m)]

    def backward() -> None:
        losses: dict[str, Tensor] = {str(i): (net(x) - i).square().mean() for i, x in enumerate(batches)}
        opt.backward(losses)

    return peak_bytes(backward)


def measure(m: int, depth: int) -> dict[str, Any]:
    """The peak of every mode on the process that holds most; called by all processes."""
    peaks = {}
    for mode in MODES:
        most = torch.tensor(peak(mode, m, depth))
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        peaks[mode] = int(most)
    parameters = sum(p.numel() for p in network(depth).parameters())
    return {"processes": distributed.get_world_size(), "losses": m, "parameters": parameters, "peak_bytes": peaks}


def work(rank: int, processes: int, losses: list[int], depth: int, out: Path, rendezvous: str) -> None:
    """All measurements, on one of the processes; rank 0 writes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=processes)
    for m in tqdm(losses, desc=f"{processes} processes", disable=rank > 0):
        result = measure(m, depth)
        if rank == 0:
            keep(out / "distributed_memory.json", result | {"machine": machine_record()})
    distributed.destroy_process_group()


def keep(path: Path, result: dict[str, Any]) -> None:
    """Put the result into the file, in the place of an earlier one of as many processes and losses."""
    before = json.loads(path.read_text())["results"] if path.exists() else []
    found = {(r["processes"], r["losses"]): r for r in [*before, result]}
    ordered = [found[key] for key in sorted(found)]
    path.write_text(json.dumps({"machine": machine_record(), "results": ordered}, indent=2) + "\n")


def table(record: dict[str, Any]) -> str:
    """A column for each number of processes and losses, a row for each mode; in gradients of four bytes an element."""
    results = record["results"]
    header = ["at the peak of a backward, in k", *(f"n = {r['processes']}, m = {r['losses']}" for r in results)]
    rows = [[mode, *(f"{r['peak_bytes'][mode] / 4 / r['parameters']:.2f}" for r in results)] for mode in MODES]
    machine = record["machine"]
    return f"{markdown(header, rows)}\n\n`{machine['command']}`, {machine['date'][:10]}: torch {machine['torch']}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default=None, help="comma-separated (default: 2,4)")
    parser.add_argument("--losses", default=None, help="comma-separated numbers of losses (default: 2,4)")
    parser.add_argument("--quick", action="store_true", help="two processes, two losses, few layers")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    arguments.out = output_folder(arguments, "distributed_memory")
    losses = [int(m) for m in (arguments.losses or ("2" if arguments.quick else "2,4")).split(",")]
    depth = 2 if arguments.quick else 24
    for processes in map(int, (arguments.processes or ("2" if arguments.quick else "2,4")).split(",")):
        with tempfile.TemporaryDirectory() as folder:
            given = (processes, losses, depth, arguments.out, os.path.join(folder, "rendezvous"))
            multiprocessing.spawn(work, given, nprocs=processes)  # type: ignore[attr-defined]
    print(table(json.loads((arguments.out / "distributed_memory.json").read_text())))


if __name__ == "__main__":
    main()
