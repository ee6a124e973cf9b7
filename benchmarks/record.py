"""What every benchmark writes beside its figure: machine, versions and command; and the options that all share."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import gradweight
from benchmarks.folders import ROOT, add_output_arguments, output_folder


def machine_record() -> dict[str, Any]:
    """Plain values for JSON: CPU, cores that this process may use, load average, GPU, versions, date (UTC), command.

    Of a GPU its driver, clocks and power limit as well, if ``nvidia-smi`` is there to tell, as of the first record.

    Among the versions are those of the peers that are installed.
    """
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **_gpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradweight": gradweight.__version__,
        **{name: version(name) for name in ("torchjd", "conflictfree") if find_spec(name)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
    }


def device_arguments(parser: argparse.ArgumentParser, name: str) -> argparse.Namespace:
    """Parse the command line with the options that every measurement of cost has.

    Results go to `output_folder` of ``name``; those from a GPU to a folder ``cuda`` in it, so that they never mix with
    those of a CPU.
    """
    parser.add_argument("--device", default="cpu", type=torch.device, help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no round of a cell starts after these")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds, the smaller sizes")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    arguments.out = output_folder(arguments, name if arguments.device.type == "cpu" else f"{name}/{arguments.device}")
    return arguments


def write_results(path: Path, device: torch.device, results: list[dict[str, Any]]) -> None:
    """Write all results so far, with the machine that they are of."""
    record = {"machine": machine_record(), "device": device.type, "results": results}
    path.write_text(json.dumps(record, indent=2) + "\n")


def keep_by_cell(path: Path, result: dict[str, Any], cells: Iterable[str]) -> list[dict[str, Any]]:
    """All results in the file, this one in the place of an earlier one of its cell, each with the record of its run.

    Args:
        path: a JSON file, made if there is none.
        result: has a "cell".
        cells: names in the order in which results are kept.
    """
    before = json.loads(path.read_text())["results"] if path.exists() else []
    results = {r["cell"]: r for r in [*before, result]}
    ordered = [results[name] for name in cells if name in results]
    path.write_text(json.dumps({"machine": machine_record(), "results": ordered}, indent=2) + "\n")
    return ordered


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"gpu": None}
    known = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    asked = {"driver": "driver_version", "sm_clock": "clocks.sm", "sm_clock_limit": "clocks.max.sm"}
    asked |= {"memory_clock": "clocks.mem", "power_limit": "power.limit"}
    which = f"--id=GPU-{torch.cuda.get_device_properties().uuid}"
    command = ["nvidia-smi", which, f"--query-gpu={','.join(asked.values())}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return known
    return known | dict(zip(asked, map(str.strip, line.split(",")), strict=False))


def _command() -> str:
    """The command line, with the module's name where it is one of the repository, however it was called.

    Without ``--out``, a folder of the machine that it ran on.
    """
    script, root, words = Path(sys.argv[0]).resolve(), ROOT, sys.argv[1:]
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    if not script.is_relative_to(root):
        return shlex.join(["python", script.name, *words])
    module = ".".join(script.relative_to(root).with_suffix("").parts).removesuffix(".__main__")
    return shlex.join(["python", "-m", module, *words])
