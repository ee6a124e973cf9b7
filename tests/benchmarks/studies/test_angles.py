"""The study of angles and of zero gradients: its scripts end to end on tiny files made here."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from benchmarks.studies.angles import measure as angle_study
from benchmarks.studies.angles import report as angle_report
from benchmarks.studies.angles import runs as angle_runs
from benchmarks.studies.angles import zero as zero_study
from benchmarks.studies.images.datasets import fashion_mnist
from gradweight.gan import Hinge


@pytest.mark.slow
def test_angles_runs(folder: Path, tmp_path: Path) -> None:
    judge = ["--classifier", str(tmp_path / "classifier.pt")]
    angle_study.main(["--quick", "--data", str(folder), "--out", str(tmp_path), *judge])
    record = json.loads((tmp_path / "angles.json").read_text())
    assert {"machine", "size", "angles", "scores", "grid"} == record.keys()
    assert all((tmp_path / f"{name}.png").stat().st_size > 4000 for name in ("angles", "scores", "grid"))
    rows = list(csv.DictReader((tmp_path / "angles.csv").read_text().splitlines()))
    seen = 0
    for row in rows:
        real, fake, between = (float(row[k]) for k in ("real-combined", "fake-combined", "real-fake"))
        if math.isnan(between):  # a hinge loss without gradient: the step is along the other's
            assert min(float(row["norm real"]), float(row["norm fake"])) == 0
            continue
        seen += 1
        # with positive weights the step lies between the two gradients
        assert real + fake == pytest.approx(between, abs=0.1)
        if row["loss"] == "aw-relative":
            assert max(real, fake) < 90.1
    assert seen > len(rows) / 2
    # a grid that was cut off in its last cell runs that one again, to the same numbers, and no finished one
    head, first, *others = (tmp_path / "grid.csv").read_text().splitlines()
    marked = [head, first.rpartition(",")[0] + ",7.5", *others]
    (tmp_path / "grid.csv").write_text("\n".join(marked[:-1]) + "\n")
    angle_study.main(["--parts", "grid", "--quick", "--data", str(folder), "--out", str(tmp_path), *judge])
    assert (tmp_path / "grid.csv").read_text().splitlines() == marked


def test_angles_keeps_what_it_has(folder: Path, tmp_path: Path) -> None:
    judge, here = tmp_path / "classifier.pt", ["--data", str(folder), "--out", str(tmp_path)]
    words = ["--parts", "grid", "--quick", "--classifier", str(judge), *here]
    angle_study.main(words)
    machine = json.loads((tmp_path / "angles.json").read_text())["machine"]
    record = json.loads((tmp_path / "angles.json").read_text()) | {"machine": "the one that ran it"}
    (tmp_path / "angles.json").write_text(json.dumps(record))
    angle_study.main(words)  # draws
    assert json.loads((tmp_path / "angles.json").read_text())["machine"] == "the one that ran it" != machine

    with pytest.raises(SystemExit, match=r"holds rows of another size, see angles\.json there: choose another --out"):
        angle_study.main(["--parts", "grid", "--classifier", str(judge), *here])
    grid = tmp_path / "grid.csv"
    cut_off = "\n".join(grid.read_text().splitlines()[:-1]) + "\n"
    grid.write_text(cut_off)
    judge.write_bytes(b"no weights")
    with pytest.raises(Exception, match="weights"):
        angle_study.main(words)
    assert grid.read_text() == cut_off


@pytest.mark.slow
def test_zero_gradients_are_counted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_study, "QUICK", zero_study.Size(width=4, iterations=2, seeds=2))
    # every sample beyond its margin but for the fake ones of either loss: the real gradient is zero on every step
    monkeypatch.setattr(zero_study, "HINGE", AllRealsAreFar())
    zero_study.main(["--quick", "--data", str(folder), "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "zero.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(angle_runs.NORMS) * len(zero_study.RULES)
    for row in rows:
        assert (row["real zero"], row["fake zero"], row["longest stretch"], row["real loss"]) == ("2", "0", "2", "0")
    # untrained networks give real samples 1/2: the real loss may be favoured, and then the settings differ
    assert {row["differ"] for row in rows} & {"1", "2"}
    verdict = json.loads((tmp_path / "zero.json").read_text())["zero"]
    assert verdict["batch norm, Algorithm 1, printed less train_other"]["real zero"] == [0, 0]


class AllRealsAreFar(Hinge):
    """The hinge loss with real samples that are beyond the margin."""

    def on_real(self, logits: Tensor) -> Tensor:
        return super().on_real(logits + 1e6)


def test_looking_at_other_steps_leaves_the_plain_run_as_it_is(folder: Path) -> None:
    data, size = fashion_mnist(folder), angle_runs.QUICK
    rows = iter(angle_runs.scores(data, size))
    for norm in angle_runs.NORMS:
        for seed in range(size.seeds):
            pair = angle_runs.Pair(data, size.width, angle_runs.NORMS[norm], seed, rule=None)
            for _ in range(size.score_iterations):
                row, (real, fake) = next(rows), pair.batch()
                with torch.no_grad():
                    assert row["real before"] == float(pair.discriminator(real).mean())
                angle_runs.backward(pair.d_opt, pair.discriminator, real, fake)
                pair.d_opt.step()
                with torch.no_grad():
                    assert row["fake original"] == float(pair.discriminator(fake).mean())
                assert row["fake original"] != row["fake aw"] != row["fake aw at its length"]
                pair.generator_step()


@pytest.mark.slow
def test_the_scripts_find_each_other_when_run_by_path() -> None:
    command = [sys.executable, "-m", "benchmarks.studies.angles.measure", "--help"]
    assert "--quick" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout


def test_f_of_the_grid_is_that_of_a_two_way_analysis() -> None:
    table = np.random.default_rng(0).normal(size=(5, 4)) + np.array([[0], [1], [2], [0], [0]]) + np.arange(4)
    ratio, rows, free = angle_report.f_of_rows(table) or []
    # with two rows, F is the square of the paired t
    t = scipy.stats.ttest_rel(table[0], table[2]).statistic
    assert (angle_report.f_of_rows(table[[0, 2]]) or [0])[0] == pytest.approx(t**2, abs=0.005)
    assert (rows, free) == (4, 12)
    assert ratio == pytest.approx((angle_report.f_of_rows(table + 3 * np.arange(4)) or [0])[0], abs=0.005)
