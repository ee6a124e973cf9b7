"""What ``import gradweight`` leaves alone: parts of torch and NumPy that take longer to import than all of it."""

from __future__ import annotations

import subprocess
import sys

SLOW = ("torch._dynamo", "torch._inductor", "array_api_compat.numpy", "jax", "triton", "matplotlib", "scipy", "torchjd")
BESIDE_TORCH = f"""
import sys
import numpy, torch
before = set(sys.modules)
import gradweight
print(*sorted(set({SLOW}) & (set(sys.modules) - before)))
"""


def test_nothing_slow_is_imported() -> None:
    run = subprocess.run([sys.executable, "-c", BESIDE_TORCH], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
