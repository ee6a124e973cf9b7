"""What README, CITATION.cff and the metadata say of the package is so."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gradweight
from gradweight.rules.claims import CLAIMS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def row(start: str) -> list[str]:
    """Cells of the first row of a table of the README that starts so, links as their text."""
    line = next(line for line in README.splitlines() if line.startswith(f"| {start}"))
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell).strip() for cell in line.strip("|").split("|")][1:]


def results(path: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / path).read_text())


def test_badges() -> None:
    badges = re.findall(r"img\.shields\.io/badge/(\w+)-([^-]*)-blue", README)
    extras = PROJECT["optional-dependencies"]
    assert badges == [
        ("python", PROJECT["requires-python"].removeprefix(">=") + "%2B"),
        ("PyTorch", extras["torch"][0].removeprefix("torch>=") + "%2B"),
        ("JAX", extras["optax"][0].removeprefix("jax>=").partition(",")[0]),
        ("types", "mypy%20strict"),
        ("licence", PROJECT["license"]),
    ]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["strict"] is True


def test_files_that_are_linked_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", README)
    assert len(links) > 20
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        headings = re.findall(r"^#+ (.*)$", (ROOT / (path or "README.md")).read_text(), re.M) if anchor else []
        assert not anchor or anchor[1:] in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_how_many_methods_there_are() -> None:
    ours, theirs, *_ = row("methods, baselines included")
    assert int(ours) == len({type(claims.rule) for claims in CLAIMS})
    torchjd = pytest.importorskip("torchjd")
    names = {
        name.removesuffix("Weighting") for part in ("aggregation", "scalarization") for name in part_of(torchjd, part)
    }
    bases = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Scalarizer", ""}
    assert int(theirs) == len(names - bases)


def part_of(package: Any, name: str) -> list[str]:
    return list(__import__(f"{package.__name__}.{name}", fromlist=["__all__"]).__all__)


def test_conflicts_beside_torchjd() -> None:
    found = results("rules/agreement.json")
    (conflicts,) = (part["conflicts"] for part in found["rules"]["UPGrad"] if part["norm_ratio"] == 1000)
    ours, theirs = (f"{count} of {found['trials']}" for count in conflicts)
    assert row("conflicts of `UPGrad`, lengths 1,000 times apart")[:2] == [ours, theirs]


def test_the_step_beside_others() -> None:
    (cell,) = (cell for cell in results("step/step.json")["results"] if cell["cell"] == "dcgan")
    median = {name: quartiles[1] for name, quartiles in cell["ratio_quartiles"].items()}
    fastest = min(ratio for name, ratio in median.items() if name.startswith("TorchJD"))
    expected = (median["gradweight AngleBisector"], fastest, median["conflictfree ConFIG"])
    assert row("time of a DCGAN step")[:3] == [f"{ratio:.2f}" for ratio in expected]


def test_one_version() -> None:
    """It stands in ``gradweight/__init__.py``; the changelog is about it, and what is cited is the last release."""
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+?)(, not yet released)?$", changes, flags=re.MULTILINE)
    assert newest is not None
    assert gradweight.__version__ == newest[1] + (".dev0" if newest[2] else "")
    released = re.findall(r"^## (\d[\d.]*)$", changes, flags=re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited is not None
    assert cited[1] == released[0]
