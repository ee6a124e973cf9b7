"""What importing the package costs beyond torch and NumPy, in a fresh process each, with bytecode that is there.

    python -m benchmarks.cost.imports [--rounds 15]

The wrapper alone, the wrapper and all rules, and torch itself beside them; median and quartiles in ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from tqdm import tqdm

from benchmarks.cost.timing import quartiles
from benchmarks.folders import ROOT

CODE = """
import time
start = time.perf_counter()
import numpy, torch, torch.optim
torch_there = time.perf_counter()
import gradweight
gradweight.MultiObjectiveGradient
wrapper = time.perf_counter()
import gradweight.rules
rules = time.perf_counter()
print(torch_there - start, wrapper - torch_there, rules - torch_there)
"""
TITLES = ("torch and NumPy", "gradweight.MultiObjectiveGradient beyond them", "and gradweight.rules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="processes that are timed; one more fills the caches")
    rounds = parser.parse_args().rounds

    with tempfile.TemporaryDirectory() as bytecode:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = kept | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": bytecode}
        found = []
        for _ in tqdm(range(rounds + 1), unit="process"):
            done = subprocess.run(
                [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
            )
            found.append([1e3 * float(seconds) for seconds in done.stdout.split()])
    for title, values in zip(TITLES, zip(*found[1:], strict=True), strict=True):
        low, median, high = quartiles(values)
        print(f"{title:<45} {median:7.1f} ms   [{low:.1f}, {high:.1f}]")


if __name__ == "__main__":
    main()
