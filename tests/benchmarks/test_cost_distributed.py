"""The measurement of several processes still runs, its estimate adds up, and the page's program does what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.cost.distributed import PAGE, filled
from benchmarks.cost.distributed_estimate import CLUSTER, MODELS, fsdp2, replicated
from benchmarks.cost.modes import PLAIN
from benchmarks.folders import ROOT

from ..test_docs import blocks
from .running import run


@pytest.mark.slow
def test_measurement(tmp_path: Path) -> None:
    table = run("-m", "benchmarks.cost.distributed", "--quick", "--rounds", "2", "--out", str(tmp_path), folder=ROOT)
    record = json.loads((tmp_path / "distributed.json").read_text())
    assert {"cpu", "cores", "torch", "date", "command"} <= record["machine"].keys()
    [result] = record["results"]
    assert result["ratio_quartiles"][PLAIN] == [1, 1, 1]
    assert all(mode in table for mode in result["ratio_quartiles"])
    if sys.platform.startswith("linux"):
        for mode, expected in result["bytes_expected"].items():
            if expected is not None:
                # what the hosts agree on and each message's header come on top: kilobytes, of a small network
                assert result["bytes_sent"][mode] == pytest.approx(expected, rel=0.03), mode
    assert (tmp_path / "distributed.png").stat().st_size > 5_000


@pytest.mark.slow
def test_program_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, source = blocks(PAGE.read_text())[0]
    exec(source, {})
    alone = capsys.readouterr().out
    (tmp_path / "train.py").write_text(source)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert run(*torchrun, "train.py", folder=tmp_path) == alone
    assert len(alone.splitlines()) == 5


def test_tables_of_the_page_are_what_the_results_and_the_formulas_say() -> None:
    page = PAGE.read_text()
    assert filled(page) == page


@pytest.mark.parametrize("n", [8, 64, 512, 4096])
def test_estimate(n: int) -> None:
    size = 1e9  # so large that bandwidth is all that counts
    moved = size * (n - 1) / n / CLUSTER.bandwidth
    assert CLUSTER.scatter(size * 1e3, n) == pytest.approx(1e3 * moved, rel=0.01)
    assert CLUSTER.all_reduce(size * 1e3, n) == pytest.approx(2e3 * moved, rel=0.01)
    for model in MODELS:
        one, four = (replicated(CLUSTER, model, n, m) for m in (1, 4))
        assert one["DDP"] == four["DDP"]
        rows = four["all"][0] / one["all"][0]
        assert rows == pytest.approx(4, rel=0.3)  # beside the rows there is a sum of m x m numbers
        plain, ours = fsdp2(CLUSTER, model, n, 1, hybrid=False)
        assert plain < ours < plain + 3 * CLUSTER.all_reduce(8, n)
