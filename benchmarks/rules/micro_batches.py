"""How far is a direction whose weights are each micro-batch's own from that of the big batch?

    python -m benchmarks.rules.micro_batches [--out DIR] [--quick]

What ``engine="gram"`` adds up over micro-batches, against ``engine="auto"``, which adds up gradients per loss. Four
tasks on one perceptron, half of them squared and half absolute errors, four micro-batches of 8, 32 and 256 samples; the
median of several random networks of ``|direction - that of the big batch| / |that of the big batch|``. Written to
``benchmarks/results/rules/micro_batches.json``, and printed as a table.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor, nn

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.models import mlp
from benchmarks.record import machine_record
from benchmarks.rules.calls import write
from gradweight import MultiObjectiveGradient, rules
from gradweight.gradients.engines import Engine
from gradweight.rule import Rule

RULES = ("AngleBisector", "UPGrad", "MGDA", "NashMTL", "CAGrad", "IMTLG", "AlignedMTL")
SIZES = (8, 32, 256)
NUMBER = 4


def tasks(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    errors = outputs - targets
    return {f"task {i}": (e.abs() if i % 2 else e.square()).mean() for i, e in enumerate(errors.unbind(1))}


def direction(net: nn.Module, rule: Rule, engine: Engine, x: Tensor, y: Tensor) -> Tensor:
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule, engine=engine)
    for inputs, targets in zip(x.chunk(NUMBER), y.chunk(NUMBER), strict=True):
        (opt.join(tasks(net(inputs), targets)) / NUMBER).backward()  # type: ignore[no-untyped-call]
    found = torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]).clone()
    opt.zero_grad()
    return found


def distance(rule: Rule, size: int, seed: int) -> float:
    torch.manual_seed(seed)
    net = mlp(64, 2, inputs=16, outputs=4).double()
    x = torch.randn(NUMBER * size, 16, dtype=torch.float64)
    y = torch.tanh(x @ torch.randn(16, 4, dtype=torch.float64)) + 0.3 * torch.randn(len(x), 4, dtype=torch.float64)
    by_itself, big = (direction(net, rule, engine, x, y) for engine in ("gram", "auto"))
    return float((by_itself - big).norm() / big.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one network, two rules")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    names, seeds = (RULES[:2], 1) if arguments.quick else (RULES, 11)
    found = {
        name: {
            size: statistics.median(distance(getattr(rules, name)(), size, s) for s in range(seeds)) for size in SIZES
        }
        for name in names
    }
    write(output_folder(arguments, "rules"), "micro_batches", {"machine": machine_record(), "distances": found})
    print("| rule | " + " | ".join(f"{size} samples" for size in SIZES) + " |")
    for name, distances in found.items():
        print(f"| {name} | " + " | ".join(f"{100 * d:.2g}%" for d in distances.values()) + " |")


if __name__ == "__main__":
    main()
