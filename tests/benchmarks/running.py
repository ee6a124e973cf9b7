"""How a test runs a program of the repository, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.folders import ROOT


def run(*command: str, folder: Path = ROOT) -> str:
    """What ``python command...`` prints; it must end well."""
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout
