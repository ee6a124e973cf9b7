"""Every Python block of the documentation runs as it stands.

The blocks of one page share a namespace, from top to bottom, in an empty directory. A block that is only a piece of a
program is fenced as ``python fragment`` and left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]

# hosts about themselves and their environment
HOSTS = [
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:.*does not have many workers.*",
    "ignore:.*pin_memory.*no accelerator is found.*",
]

# packages that a page may show, and that nothing here depends on
PEERS = {"torchjd", "conflictfree"}


def blocks(text: str) -> list[tuple[int, str]]:
    """The line number and the source of each block that is fenced as exactly ``python``."""
    found = re.finditer(r"^```python[ \t]*\n(.*?)^```[ \t]*$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in found]


def _page(page: Path) -> Any:
    slow = page.name == "optax.md"  # JAX compiles each of its steps; what they show is tested in tests/optax
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("page", [_page(page) for page in PAGES])
@pytest.mark.filterwarnings(*HOSTS)
def test_the_blocks_of_a_page_run_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, source in blocks(page.read_text()):
        try:
            # so that a traceback names the page and the line in it
            exec(compile("\n" * (line - 1) + source, str(page), "exec"), namespace)
        except ModuleNotFoundError as missing:
            if missing.name not in PEERS:
                raise
            pytest.skip(f"the block in line {line} needs {missing.name}, which is not installed")


def test_which_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n\ny = 2\n```\n```sh\nls\n```\n```python fragment\nopt.step()\n```\n```python\nz\n```\n"
    assert blocks(text) == [(3, "x = 1\n\ny = 2\n"), (14, "z\n")]


def test_there_are_blocks_to_run() -> None:
    assert len(blocks((ROOT / "docs" / "trainers.md").read_text())) >= 9


def test_the_tests_that_pages_name_exist() -> None:
    """A page that calls a test as its witness, by file or by file and function."""
    named = {
        match.groups() for page in PAGES for match in re.finditer(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    }
    assert len(named) > 20
    for file, function in named:
        source = (ROOT / file).read_text()
        assert function is None or f"\ndef {function}(" in source, (file, function)
