"""All measurements of what gradweight costs, one after the other.

    python -m benchmarks --quick           # under eleven minutes on two cores
    python -m benchmarks                   # the numbers of docs/speed.md; longer
    python -m benchmarks --device cuda     # under nine minutes on a GPU

Results go below ``build/``, so that they replace no number that is cited, unless ``--cite`` says so. In quick mode and
on a GPU every script has a time of its own, after which it is told to stop; what it has written by then stays, and it
draws that. Full runs on a CPU take the time that they take.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

from benchmarks.folders import ROOT, add_output_arguments

# the steps of 88 M parameters take seconds each: what is like something else that is measured is left out
BIG = "gradweight AngleBisector,sequential,conflictfree,paper"

# seconds that a script has to draw what it has, once it was told to stop
GRACE = 5

# script, options, seconds
Plan = list[tuple[str, list[str], float | None]]

QUICK: Plan = [
    ("overhead", ["--quick", "--memory", "1", "--ms", "2,4,16", "--seconds", "3"], 90),
    ("step", ["--quick", "--seconds", "20"], 210),
    ("memory", ["--quick", "--cells", "mlp,dcgan,pinn,transformer"], 100),
    ("losses", ["--quick", "--ms", "1,2,4,8,16", "--seconds", "6"], 100),
    ("advas", ["--quick", "--seconds", "10"], 60),
    ("optax", ["--quick", "--cells", "mlp,pinn", "--seconds", "5"], 60),
]
FULL: Plan = [
    ("overhead", ["--memory", "4"], None),
    ("step", ["--cells", "dcgan,sngan,mlp25m,pinn"], None),
    ("step", ["--cells", "mlp,transformer", "--compiled"], None),
    ("step", ["--cells", "biggan", "--variants", BIG, "--rounds", "4"], None),
    ("memory", ["--cells", "mlp,dcgan,sngan,mlp25m,pinn,transformer"], None),
    ("memory", ["--cells", "biggan", "--variants", BIG], None),
    ("losses", [], None),
    ("engines", [], None),
    ("advas", [], None),
    ("optax", [], None),
]
CUDA: Plan = [
    ("overhead", ["--device", "cuda", "--memory", "40", "--ms", "2,3,4,8,16", "--seconds", "1"], 95),
    ("step", ["--device", "cuda", "--seconds", "10"], 130),
    ("memory", ["--device", "cuda"], 55),
    ("losses", ["--device", "cuda", "--seconds", "2.5"], 55),
    ("advas", ["--device", "cuda", "--seconds", "5"], 45),
    ("step", ["--device", "cuda", "--seconds", "6", "--cells", "mlp", "--compiled"], 70),
    ("optax", ["--device", "gpu", "--seconds", "4", "--cells", "mlp,pinn"], 55),
]


def missing(script: str, device: str) -> str | None:
    """What a script needs that is not installed, if anything: JAX is no part of an installation for torch."""
    if script != "optax":
        return None
    if find_spec("jax") is None or find_spec("optax") is None:
        return "JAX and Optax"
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return "JAX for CUDA" if device == "cuda" and not any(map(find_spec, plugins)) else None


def run(command: list[str], seconds: float | None) -> str:
    """Run a script, for so many seconds at most: how it ended."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            code = process.wait(seconds)
            return "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            return f"stopped at its limit of {seconds} s; what it had written stays"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--only", default=None, help="comma-separated scripts: overhead, step, memory, losses, advas, optax"
    )
    add_output_arguments(parser)
    arguments = parser.parse_args()
    plan = CUDA if arguments.device == "cuda" else QUICK if arguments.quick else FULL
    if arguments.only:
        plan = [part for part in plan if part[0] in arguments.only.split(",")]

    outcomes = []
    for script, options, seconds in plan:
        if needed := missing(script, arguments.device):
            outcomes.append(f"{script:9} {0:6.0f} s  left out: it needs {needed}")
            continue
        command = [sys.executable, "-m", f"benchmarks.cost.{script}", *options]
        if arguments.quick and "--quick" not in options:
            command.append("--quick")
        if arguments.cite:
            command.append("--cite")
        if arguments.out is not None:
            command += ["--out", str(arguments.out / script / ("cuda" if arguments.device == "cuda" else ""))]
        print(f"\n=== {script} {' '.join(options)}", flush=True)
        start = time.perf_counter()
        outcome = run(command, seconds)
        outcomes.append(f"{script:9} {time.perf_counter() - start:6.0f} s  {outcome}")
    print("\n" + "\n".join(outcomes))
    sys.exit(any("failed" in outcome for outcome in outcomes))


if __name__ == "__main__":
    main()
