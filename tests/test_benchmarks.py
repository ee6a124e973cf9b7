"""The scripts that make the numbers in README and docs still run, on tiny settings, and write what they say."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *arguments: str) -> str:
    finished = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def machine(path: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads(path.read_text())["machine"]
    assert {"cpu", "cores", "torch", "date", "command"} <= record.keys()
    return record


def test_ring(tmp_path: Path) -> None:
    table = run("ring.py", "--steps", "20", "--seeds", "2", "--workers", "1", "--out", str(tmp_path))
    assert "plain" in table
    assert "aw" in table
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert (tmp_path / "ring.png").stat().st_size > 10_000
    assert "benchmarks/ring.py" in str(machine(tmp_path / "ring.json")["command"])


def test_pinn(tmp_path: Path) -> None:
    table = run("pinn.py", "--steps", "5", "--seeds", "1", "--out", str(tmp_path))
    record = json.loads((tmp_path / "pinn.json").read_text())
    for name, errors in record["relative_error"].items():
        assert name in table
        assert len(errors) == 1
    machine(tmp_path / "pinn.json")
    assert all((tmp_path / name).exists() for name in ("pinn.png", "history.png", "conflicts.png"))


@pytest.mark.filterwarnings("ignore")
def test_step(tmp_path: Path) -> None:
    table = run("step.py", "--cells", "mlp", "--rounds", "4", "--out", str(tmp_path))
    (cell,) = json.loads((tmp_path / "step.json").read_text())["results"]
    assert cell["ratio_quartiles"]["summed loss"] == [1, 1, 1]
    assert all(name in table for name in cell["ratio_quartiles"])
    machine(tmp_path / "step.json")
    assert (tmp_path / "step.png").exists()
