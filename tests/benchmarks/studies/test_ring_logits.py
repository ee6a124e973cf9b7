"""What the discriminator says of each mode: measured as the networks by themselves do, and judged by pairs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from benchmarks.studies.ring import compare, logits
from benchmarks.studies.ring.ensemble import MODES


def test_mode_logits_are_those_of_each_discriminator_by_itself() -> None:
    setting, seeds = compare.SETTINGS["unstable"], (3, 8)
    runs = compare.ensemble("plain", seeds, setting, dtype=torch.float64)
    points = MODES[:, None].double() + 0.02 * torch.randn(8, 5, 2, dtype=torch.float64)
    found = logits.mode_logits(runs.d, points)
    for seed, of_seed in zip(seeds, found, strict=True):
        _, discriminator = compare.networks(seed, setting)
        with torch.no_grad():
            expected = [discriminator.double()(mode).mean() for mode in points]
        torch.testing.assert_close(of_seed, torch.stack(expected), rtol=1e-12, atol=1e-14)


def look(method: str, seed: int, step: int, least: float, rest: float) -> logits.Look:
    return logits.Look(method, seed, step, 8, (least, *[rest] * 7))


def test_verdict() -> None:
    looks = [look("plain", 0, 1, -1.0, 1.0), look("plain", 0, 2, 1.0, 1.0), look("plain", 1, 1, 0.5, 0.5)]
    looks += [look("aw", 0, 1, 2.0, 4.0), look("aw", 0, 2, 2.0, 2.0), look("aw", 1, 1, -0.5, 0.5)]
    looks += [look("aw", 2, 1, 9.0, 9.0)]  # without a pair
    found = logits.verdict(looks)
    assert found["methods"]["plain"]["all above 0"][0] == 0.75
    assert found["methods"]["aw"]["seeds"] == [0, 1, 2]
    pairs = found["minus plain"]["aw"]
    assert pairs["seeds"] == [0, 1]
    assert pairs["least"][0] == pytest.approx(((2 - 0) + (-0.5 - 0.5)) / 2)
    assert pairs["mean"][0] == pytest.approx(((2.875 - 0.875) + (0.375 - 0.5)) / 2)
    assert pairs["spread"][0] == pytest.approx(((1 - 1) + (1 - 0)) / 2)
    assert pairs["least"][2:] == [1, 1, 1.0]
    assert "aw minus plain, 2 paired seeds" in logits.report(found)


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    logits.main(["--steps", "25", "--seeds", "2", "--first-seed", "7", "--workers", "1", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "logits.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 25
    assert {row["seed"] for row in rows} == {"7", "8"}
    assert (tmp_path / "logits.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "logits.json").read_text())["verdict"]["minus plain"]["aw"]["seeds"] == [7, 8]
