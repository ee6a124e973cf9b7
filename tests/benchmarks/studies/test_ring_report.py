"""What is said of the ring study's runs: rates, differences, verdicts, and the page that shows them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.folders import CITED, ROOT
from benchmarks.studies.intervals import (
    bootstrap,
    mean_and_margin,
    paired_difference,
    sign_test,
    student,
    wilson,
)
from benchmarks.studies.ring import study as ring_study
from benchmarks.studies.ring.study_report import (
    BEGIN,
    CLAIMS,
    END,
    End,
    compare,
    ends_of,
    insert,
    off_centre,
    summarise,
    tables,
    verdict,
)
from benchmarks.studies.ring.study_runs import HALF, Setting


@given(n=st.integers(1, 300), share=st.floats(0, 1))
def test_intervals_of_rates(n: int, share: float) -> None:
    k = round(share * n)
    low, high = wilson(k, n)
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    # z = 1.96 here and 1.95996 there
    assert (low, high) == (pytest.approx(reference.low, abs=2e-5), pytest.approx(reference.high, abs=2e-5))


@given(better=st.integers(0, 200), worse=st.integers(0, 200))
def test_sign_test(better: int, worse: int) -> None:
    p = sign_test(better, worse)
    assert p == sign_test(worse, better)
    assert p == pytest.approx(binomtest(better, better + worse).pvalue if better + worse else 1.0, rel=1e-9)


@given(seeds=st.lists(st.sampled_from([(1, 0), (0, 1), (0, 0)]), min_size=1, max_size=200))
def test_differences_of_paired_rates_are_within_their_intervals(seeds: list[tuple[int, int]]) -> None:
    only, other = (sum(column) for column in zip(*seeds, strict=True))
    difference, low, high = paired_difference(only, other, len(seeds))
    assert -1 <= low < difference < high <= 1 or abs(difference) == 1
    assert difference == pytest.approx((only - other) / len(seeds))
    assert paired_difference(other, only, len(seeds)) == pytest.approx((-difference, -high, -low))


@pytest.mark.parametrize("rates", [(0.3, 0.1), (0.05, 0.0), (0.3, 0.3)])
def test_intervals_of_paired_rates_cover_the_difference_as_often_as_they_say(rates: tuple[float, float]) -> None:
    random, n, covered = np.random.default_rng(2), 16, 0
    for only, other, _ in random.multinomial(n, [*rates, 1 - sum(rates)], size=500):
        _, low, high = paired_difference(int(only), int(other), n)
        covered += low <= rates[0] - rates[1] <= high
    # 475 of 500 expected, standard deviation 4.9; few and rare events are covered more often
    assert covered >= 460


def test_quantiles_of_student() -> None:
    for freedom in (*range(1, 60), 100, 1000):
        # the table has two digits
        assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), abs=0.0051)


def test_intervals_of_means_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = {"bootstrap": 0, "student": 0}
    for _ in range(400):
        values = list(random.normal(2.0, 1.0, size=16))
        mean, low, high = bootstrap(values, resamples=1000)
        assert mean == pytest.approx(np.mean(values))
        covered["bootstrap"] += low <= 2.0 <= high
        mean, margin = mean_and_margin(values)
        covered["student"] += abs(mean - 2.0) <= margin
    # 380 of 400 expected, standard deviation 4.4; percentiles of 16 values are known to fall short by 3 points
    assert 350 <= covered["bootstrap"] <= 395
    assert 365 <= covered["student"] <= 395


def runs(modes: list[int]) -> dict[int, End]:
    return {seed: End(m, m / 8, math.nan if m == 0 else 0.1) for seed, m in enumerate(modes)}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([8] * 6, [3] * 6, "**held**"),
        ([8] * 5, [3] * 5, "same direction, not clear"),
        ([8, 3, 3], [3, 8, 3], "no difference"),
        ([8, 3, 3], [8, 8, 3], "opposite direction, not clear"),
        ([7] * 6, [8] * 6, "**did not hold**: the opposite"),
    ],
)
def test_verdicts(ours: list[int], theirs: list[int], expected: str) -> None:
    success, failure = (next(c for c in CLAIMS if c.metric == metric) for metric in ("success", "failure"))
    both = {success.method: runs(ours), success.other: runs(theirs)}
    assert verdict(success, compare(both, success.method, success.other)) == expected
    # less is better
    failing = {
        failure.method: runs([0 if m == 8 else m for m in theirs]),
        failure.other: runs([0 if m == 8 else m for m in ours]),
    }
    assert verdict(failure, compare(failing, failure.method, failure.other)) == expected


def test_only_paired_seeds_are_compared_and_divergence_is_counted() -> None:
    ends = {"saturating/plain": runs([8, 0, 8]), "saturating/aw": runs([8, 8])}
    assert compare(ends, "saturating/aw", "saturating/plain")["seeds"] == 2
    entry = summarise(ends)["saturating/plain"]
    assert (entry["diverged"], entry["success"][0], entry["failure"][0]) == (1, 2, 1)
    assert entry["kl"][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("folder", "setting", "option"), [("ring_study", Setting(), ""), ("ring_study_half", HALF, " --half")]
)
def test_the_page_shows_what_is_in_the_results(folder, setting, option) -> None:
    """docs/reproduced.md is what `ring_study.py --report` makes of the runs that are kept."""
    results = CITED / folder
    rows, distances = ring_study.read_rows(results / "runs.csv"), off_centre(results / "samples.npz")
    page = (ROOT / "docs" / "reproduced.md").read_text()
    assert insert(page, tables(ends_of(rows, setting), setting, distances), BEGIN.format(option)) == page


def test_distance_of_the_samples_mean_from_the_centre(tmp_path: Path) -> None:
    far, near = np.array([[3.0, 4.0], [3.0, 6.0], [3.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    kept = {"saturating|aw|0": far, "saturating|aw|1": near, "saturating|plain|0": near}
    np.savez(tmp_path / "samples.npz", **{name: x.astype(np.float16) for name, x in kept.items()})
    distances = off_centre(tmp_path / "samples.npz")
    assert distances == {"saturating/aw": (0.5, 5.0), "saturating/plain": (0.5, 0.5)}
    ends = {name: runs([0, 0]) for name in distances}
    assert "runs whose samples are kept: saturating aw, 0 to 5.\n" in tables(ends, Setting(), distances)
    assert off_centre(tmp_path / "none.npz") == {}


def test_a_page_without_its_marks_is_refused() -> None:
    for mark in (BEGIN.format(""), BEGIN.format(" --half")):
        assert insert(f"a\n{mark}\nold\n{END}\nb", "new", mark) == f"a\n{mark}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="needs the lines"):
        insert("a\n<!-- from here -->\nb", "new", BEGIN.format(""))
