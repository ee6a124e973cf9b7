"""A new rule is its file, its name in `__init__.py` and its claims: nothing else has to be touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .test_docs import blocks

ROOT = Path(__file__).parents[2]


def test_three_places_are_enough(tmp_path):
    """In a copy of the package: `Capped` of the documentation, and all that is shared and asks about rules."""
    hidden = shutil.ignore_patterns("__pycache__", "results")
    for part in ("gradweight", "tests", "docs", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part, **({"ignore": hidden} if copy is shutil.copytree else {}))
    rules = tmp_path / "gradweight" / "rules"
    (rules / "capped.py").write_text(blocks("Write your own")[0].replace("gradweight.rule", "..rule"))
    names, claims = rules / "__init__.py", rules / "claims.py"
    names.write_text(
        names.read_text()
        .replace("from .config", "from .capped import Capped\nfrom .config")
        .replace('    "ConFIG",\n', '    "Capped",\n    "ConFIG",\n')
    )
    row = '    _claims(rules.Capped(), "pareto", "losses one of which now and then explodes"),\n'
    claims.write_text(claims.read_text().replace("    _claims(rules.Sum(),", row + "    _claims(rules.Sum(),"))

    def run(*arguments: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "db")}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    run("-m", "gradweight.rules.claims", "docs/rules.md")
    chosen = "(Capped and not compiled) or every_rule_is or table or prose"
    run(
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "tests/rules/test_claims.py",
        "tests/rules/test_every_rule.py",
        "tests/rules/test_docs.py",
        "-k",
        chosen,
    )
