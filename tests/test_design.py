"""The code is laid out as docs/design.md says: imports go to lower floors only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gradweight"
ROW = re.compile(r"^\| (\d) \| ([^|]*) \|", flags=re.MULTILINE)


def floors() -> dict[str, int]:
    """The floor of each package or module in the table of the page."""
    table = ROW.findall((ROOT / "docs" / "design.md").read_text())
    return {name: int(floor) for floor, names in table for name in re.findall(r"`(\w+)`", names)}


def imported(source: str, inside: tuple[str, ...]) -> Iterator[str]:
    """First names, below the package, of what a file in the folder ``inside`` imports from the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = inside[: len(inside) - node.level + 1]
            path = [*folder, *(node.module or "").split(".")]
            first = next((part for part in path if part), None)
            yield from [first] if first else [alias.name for alias in node.names]


def upward(files: dict[str, str], on: dict[str, int]) -> list[str]:
    """Imports that do not go downward, of files by their path below the package."""
    found = []
    for path, source in files.items():
        *inside, name = Path(path).with_suffix("").parts
        unit = inside[0] if inside else name
        if unit not in on:
            continue
        for other in imported(source, tuple(inside)):
            if other != unit and other in on and on[other] >= on[unit]:
                found.append(f"{path}: {unit} (floor {on[unit]}) imports {other} (floor {on[other]})")
    return found


def test_imports_go_downward() -> None:
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    assert upward(files, floors()) == []


def test_every_package_has_a_floor() -> None:
    packages = {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(floors())


def test_an_import_that_goes_up_is_found() -> None:
    on = {"low": 0, "high": 1}
    assert upward({"low/a.py": "from ..high.b import c\n"}, on)
    assert upward({"low.py": "from . import high\n"}, on)
    assert not upward({"high/sub/a.py": "from ...low import b\nfrom ..other import c\nfrom .low import d\n"}, on)
