"""The script of the page on rules runs on tiny settings, and its table has a word for every cell."""

from __future__ import annotations

import json
from pathlib import Path

from gradweight.rules.claims import CLAIMS

from ..test_benchmarks import run


def test_time(tmp_path: Path) -> None:
    run(
        "rules.py",
        *("--parts", "time", "--sizes", "2,16", "--only", "UPGrad,Krum", "--compile-seconds", "0"),
        *("--out", str(tmp_path), "--quick"),
    )
    record = json.loads((tmp_path / "time.json").read_text())
    measured = {(r["rule"], r["m"]) for r in record["results"]}
    assert measured == {("UPGrad", 2), ("UPGrad", 16), ("Krum", 16)}
    table = (tmp_path / "time.md").read_text().splitlines()
    assert len(table) == 2 + 4 * len(CLAIMS)
    assert any(line.startswith("| `Krum` | 2 | for 4 to 16 losses |") for line in table)
    assert (tmp_path / "time.png").stat().st_size > 10_000
