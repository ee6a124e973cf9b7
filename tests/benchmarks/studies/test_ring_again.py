"""Whether the same seeds, run twice, agree more than other seeds would."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.folders import CITED
from benchmarks.studies.ring import again
from benchmarks.studies.ring.compare_runs import read_ends


def ends(method: str, modes: list[int]) -> dict[tuple[str, int], int]:
    return {(method, 100 + i): m for i, m in enumerate(modes)}


def test_runs_that_their_seed_decides_agree_and_chance_agrees_by_chance() -> None:
    random = np.random.default_rng(1)
    modes = [int(m) for m in random.integers(9, size=30)]
    alike = again.agreement(ends("aw", modes), ends("aw", modes))["aw"]
    assert (alike["seeds"], alike["as many modes"]) == (30, 30)
    assert alike["p"] < 0.001
    # how many agree under a random pairing, by its mean over all of them
    counts = np.bincount(modes, minlength=9)
    assert alike["by chance"] == pytest.approx((counts**2).sum() / 30, abs=0.05)
    ps = [
        again.agreement(ends("aw", modes), ends("aw", [int(m) for m in random.permutation(modes)]))["aw"]["p"]
        for _ in range(8)
    ]
    assert sorted(ps)[1] > 0.01  # two of eight as small have a chance of 0.003 where nothing but chance is at work


def test_only_seeds_of_both_are_compared() -> None:
    found = again.agreement(ends("plain", [8, 3, 5, 8]), ends("plain", [8, 8, 5]))["plain"]
    assert (found["seeds"], found["as many modes"], found["all eight in both, in one"]) == (3, 2, [1, 1])


def test_differences_are_over_pairs() -> None:
    both = ends("plain", [1, 2, 3]) | ends("aw", [3, 2])
    mean, margin = again.differences(both)
    assert (mean, margin) == (1.0, pytest.approx(12.71, abs=0.01))


def test_the_kept_results_are_compared(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["again.py"])
    again.main()
    assert "'seeds': 40" in capsys.readouterr().out
    assert len(read_ends(CITED / "ring_elsewhere" / "runs.csv")) == 80
