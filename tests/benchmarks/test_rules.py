"""The script of the page on rules runs on tiny settings, and the page says what it found."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.folders import CITED, ROOT
from benchmarks.rules import micro_batches
from benchmarks.rules.agreement import run_agreement
from benchmarks.rules.many import run_many
from benchmarks.rules.paths import run_toy
from gradweight.rules.claims import CLAIMS

from ..rules.test_docs import PAGE
from .running import run
from .test_cost import machine


@pytest.mark.slow
def test_time(tmp_path: Path) -> None:
    run(
        *("-m", "benchmarks.rules"),
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


@pytest.mark.slow
def test_toy(tmp_path: Path) -> None:
    run_toy(10, tmp_path)
    assert len(json.loads((tmp_path / "toy.json").read_text())["rules"]["UPGrad"]["ends"]) == 5
    machine(tmp_path / "toy.json")
    assert (tmp_path / "toy.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore")  # of the peer's solvers
def test_agreement(tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    run_agreement(1, tmp_path)
    assert len(json.loads((tmp_path / "agreement.json").read_text())["rules"]["UPGrad"]) == 6
    machine(tmp_path / "agreement.json")


def test_the_page_says_how_often_the_peer_conflicts() -> None:
    found = json.loads((CITED / "rules" / "agreement.json").read_text())["rules"]
    ours = []
    for name, rows in found.items():
        theirs = " | ".join(str(row["conflicts"][1]) for row in rows)
        assert f"| TorchJD's {name} | {theirs} |" in PAGE
        ours += [row["conflicts"][0] for row in rows]
    assert not any(ours)
    assert len(re.findall(r"\| TorchJD's ", PAGE)) == len(found)


CHECKOUT = """
import torch
class Base(torch.nn.Module):
    def init_param(self):
        self.step = 0
class MGDA(Base):
    def backward(self, losses, mgda_gn):
        self._compute_grad_dim()
        gradients = self._compute_grad(losses, mode="backward")
        assert len(gradients) == self.task_num == len(losses)
        self._reset_grad(gradients.mean(0))
class CAGrad(Base):
    def backward(self, losses, **options):
        raise ValueError("for three tasks only")
"""
"""What a checkout of LibMTL must have at least."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the peers' solvers
def test_many_beside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "LibMTL"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(FileNotFoundError, match="LIBMTL must name a folder"):
        run_many(2, 0.1, {"MGDA"}, (2,), tmp_path)
    (tmp_path / "LibMTL" / "weighting").mkdir(parents=True)
    (tmp_path / "LibMTL" / "weighting" / "__init__.py").write_text(CHECKOUT)
    run_many(2, 0.1, {"MGDA", "CAGrad"}, (2, 4), tmp_path)
    for name in ("LibMTL", "LibMTL.weighting"):
        monkeypatch.delitem(sys.modules, name)
    results = json.loads((tmp_path / "many.json").read_text())["results"]
    found = {(r["rule"], r["m"]) for r in results if r["kind"] == "LibMTL"}
    assert found == {("MGDA", 2), ("MGDA", 4)}
    assert (tmp_path / "many.md").read_text().count("|") > 20
    assert (tmp_path / "many.png").stat().st_size > 10_000


@pytest.mark.slow
def test_micro_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(micro_batches, "SIZES", (8,))
    monkeypatch.setattr(sys, "argv", ["micro_batches.py", "--quick", "--out", str(tmp_path)])
    micro_batches.main()
    machine(tmp_path / "micro_batches.json")
    assert "| UPGrad | " in capsys.readouterr().out


def test_the_guide_says_how_far_micro_batches_are_from_the_big_batch() -> None:
    found = json.loads((CITED / "rules" / "micro_batches.json").read_text())["distances"]
    guide = " ".join((ROOT / "docs" / "guide.md").read_text().split())
    for rule in ("UPGrad", "MGDA", "AngleBisector"):
        said = [f"{100 * d:.1g}%" if d < 0.1 else f"{100 * d:.0f}%" for d in found[rule].values()]
        assert f"{said[0]}, {said[1]} and {said[2]} " in guide
        assert f"under {rule}" in guide
