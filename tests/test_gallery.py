"""The scripts of docs/gallery: each runs in its quick mode and draws, and its picture is kept beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib import image

from gradweight import rules

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_runs(name: str, tmp_path: Path) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    command = [sys.executable, "-W", "error", str(GALLERY / f"{name}.py"), "--quick", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert image.imread(tmp_path / f"{name}.png").std() > 0.01  # something is drawn


def test_the_page_shows_every_script_and_its_picture() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text()
    for name in SCRIPTS:
        assert f"gallery/{name}.py" in page
        assert f"](gallery/{name}.png)" in page
        assert (GALLERY / f"{name}.png").stat().st_size < 1_000_000


def test_the_landscape_has_every_rule_for_two_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GALLERY))
    from landscape import RULES  # type: ignore[import-not-found]

    shown = {type(rule).__name__ for some in RULES.values() for rule in some}
    exported = {name for name in rules.__all__ if isinstance(getattr(rules, name), type)}
    assert exported - shown == {"AdaptiveWeights", "AdvAs", "Krum", "TrimmedMean"}  # a GAN's, and for more losses
