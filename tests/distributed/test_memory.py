"""What a backward of two processes holds at its peak, as the page about them has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cost.distributed_memory import keep, measure, table
from benchmarks.record import machine_record

from .pool import Pool


def test_memory(pair: Pool, tmp_path: Path) -> None:
    result, other = pair.run(measure, 2, 2)
    assert result == other
    # two rows and the direction; and as gloo cannot reduce-scatter, what it receives in the place of a shard
    expected = {"one process": 3, '`reduce="all"`': 3, '`reduce="scatter"`': 4}
    gradients = {mode: peak / 4 / result["parameters"] for mode, peak in result["peak_bytes"].items()}
    assert gradients == pytest.approx(expected, rel=0.02)

    for losses in (4, 2):
        keep(tmp_path / "memory.json", result | {"losses": losses, "machine": machine_record()})
    written = table(json.loads((tmp_path / "memory.json").read_text()))
    assert "n = 2, m = 2 | n = 2, m = 4 |" in written
    assert '| `reduce="all"` | 3.0' in written
