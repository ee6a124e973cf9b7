"""Where a study writes, and when what it has written becomes what is cited."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import folders


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "ROOT", tmp_path)
    monkeypatch.setattr(folders, "CITED", tmp_path / "cited")
    (tmp_path / "cited" / "study").mkdir(parents=True)
    (tmp_path / "cited" / "study" / "runs.csv").write_text("before")
    return tmp_path


def asked(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    folders.add_output_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("words", [[], ["--out"], ["--out", "--cite"]])
def test_what_is_cited_is_left_alone_unless_it_is_asked_for(root: Path, words: list[str]) -> None:
    arguments = asked(*(x for word in words for x in ([word, str(root / "own")] if word == "--out" else [word])))
    folder = folders.working_folder(arguments, "study")
    assert folder == (root / "own" if words else root / "build" / "study")
    (folder / "runs.csv").write_text("after")
    folders.publish(arguments, folder, "study")
    assert (folder / "runs.csv").read_text() == "after"
    assert (root / "cited" / "study" / "runs.csv").read_text() == "before"


def test_what_is_cited_is_gone_on_with_aside_and_replaced_in_the_end(root: Path) -> None:
    arguments, cited = asked("--cite"), root / "cited" / "study" / "runs.csv"
    for before, after in (("before", "half-way"), ("half-way", "after")):
        folder = folders.working_folder(arguments, "study")  # the second time, where the first was stopped
        assert (folder / "runs.csv").read_text() == before
        (folder / "runs.csv").write_text(after)
        assert cited.read_text() == "before"
    folders.publish(arguments, folder, "study")
    assert cited.read_text() == "after"
    assert not folder.exists()
    new = folders.working_folder(arguments, "another")
    (new / "a.json").write_text("{}")
    folders.publish(arguments, new, "another")
    assert (root / "cited" / "another" / "a.json").read_text() == "{}"
