"""What every benchmark writes beside its figure: the machine, the versions and the command that made it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import gradweight


def machine_record() -> dict[str, Any]:
    """Plain values for JSON: CPU, cores that this process may use, GPU if any, versions, date (UTC), command."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradweight": gradweight.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _command() -> str:
    """The command line, with the script's path as seen from the repository's root, whatever it was called by."""
    script, root = Path(sys.argv[0]).resolve(), Path(__file__).resolve().parent.parent
    name = script.relative_to(root).as_posix() if script.is_relative_to(root) else script.name
    return shlex.join(["python", name, *sys.argv[1:]])
