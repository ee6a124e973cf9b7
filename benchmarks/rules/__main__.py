"""What does a rule cost, where does it lead, and where does it differ from the peer's?

    python -m benchmarks.rules [--parts toy,agreement,time,many] [--rounds N] [--sizes M,...] [--out DIR] [--quick]

- **toy**: the two-objective problem of CAGrad and Nash-MTL, the first objective times 0.1 as in the latter, from five
  starts; trajectories of every rule that takes two losses.
- **agreement**: random gradients whose norms differ more and more; how often a direction conflicts with one of them,
  ours and TorchJD's.
- **time**: the time of one call for m = 2, 4, 8, 16 losses: eager, compiled (inductor) and in NumPy, and TorchJD's
  weighting where there is one and its solver is installed. The contenders take turns, so that a machine that slows
  down slows all of them down; reported is the median over the rounds with its quartiles. Compiling unrolls the loops
  over losses and iterations: a rule that took more than ``--compile-seconds`` is not compiled for more losses.
  ``--sizes`` measures some m again and keeps the others.
- **many**: how the time of one call grows with the number of losses, from 2 to 256, as the optimizer calls a rule on a
  CPU (the Gram matrix as a NumPy array, weights back as a tensor), TorchJD's weighting, and those that take the
  gradients: the authors' ConFIG, and LibMTL's methods (installed, or ``LIBMTL=`` a checkout). Gradients are random in 4
  m + 64 dimensions. The cited numbers are of one thread (``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1``): NumPy and torch
  have thread pools of their own.

Each part writes its JSON, with a record of the machine, and its figure to ``benchmarks/results/rules/`` when it ends.
"""

from __future__ import annotations

import argparse
import warnings

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.rules.agreement import run_agreement
from benchmarks.rules.many import MANY, run_many
from benchmarks.rules.paths import run_toy
from benchmarks.rules.times import SIZES, run_time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="toy,agreement,time,many", help="which of toy, agreement, time, many")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--compile-seconds", type=float, default=60, metavar="S", help="no larger m beyond this; 0: compile nothing"
    )
    parser.add_argument("--sizes", default="", help="numbers of losses, for the parts `time` and `many`")
    parser.add_argument("--only", default="", help="names of rules, for the parts `time` and `many`")
    add_output_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="a few steps and rounds, to see that it runs")
    arguments = parser.parse_args()
    arguments.out = output_folder(arguments, "rules")
    warnings.filterwarnings("ignore", category=UserWarning)
    parts = arguments.parts.split(",")
    if "toy" in parts:
        run_toy(20 if arguments.quick else 2500, arguments.out)
    if "agreement" in parts:
        run_agreement(3 if arguments.quick else 60, arguments.out)
    only = set(filter(None, arguments.only.split(",")))
    sizes = tuple(map(int, filter(None, arguments.sizes.split(","))))
    rounds = 5 if arguments.quick else arguments.rounds
    if "time" in parts:
        run_time(rounds, arguments.compile_seconds, only, sizes or SIZES, arguments.out)
    if "many" in parts:
        run_many(
            rounds,
            0.2 if arguments.quick else 3.0,
            only,
            sizes or (MANY[:3] if arguments.quick else MANY),
            arguments.out,
        )


if __name__ == "__main__":
    main()
