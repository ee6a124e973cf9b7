"""The table at the head of docs/reproduced.md is what the kept results say."""

from __future__ import annotations

import pytest

from benchmarks.studies import overview
from benchmarks.studies.ring.study_report import insert


def test_the_page_starts_with_the_table_of_the_kept_results() -> None:
    page = overview.PAGE.read_text()
    assert insert(page, overview.table(), overview.BEGIN) == page
    assert page.index(overview.BEGIN) < page.index("\n## ")


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ((1.0, 1.0), "no clear difference"),
        ((1.0, 0.9), "**held**"),
        ((-1.0, 0.9), "**did not hold**: the opposite"),
        ((float("nan"), float("nan")), "no clear difference"),
    ],
)
def test_verdicts_by_intervals(difference: tuple[float, float], expected: str) -> None:
    mean, margin = difference
    assert overview.by_interval(mean, margin, more_is_better=True) == expected
    assert overview.by_interval(-mean, margin, more_is_better=False) == expected
