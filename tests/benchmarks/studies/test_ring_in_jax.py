"""The ring in JAX: what it counts, and the whole script with its picture."""

from __future__ import annotations

import json
import sys

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("optax")


@pytest.fixture(scope="module")
def ring():
    from benchmarks.studies.ring import in_jax

    return in_jax


def test_a_mode_is_covered_by_a_sample_within_three_deviations(ring):
    assert ring.covered(ring.MODES) == 8
    beside = ring.MODES[:2] + jax.numpy.array([[0.0, 2.9 * ring.STD], [0.0, 3.1 * ring.STD]])
    assert ring.covered(beside) == 1


@pytest.mark.slow
def test_the_picture_has_a_title_over_every_frame(ring, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["in_jax.py", "--steps", "8", "--seeds", "2", "--out", str(tmp_path)])
    figures = []
    written = ring.save
    monkeypatch.setattr(ring, "save", lambda figure, path: (figures.append(figure), written(figure, path)))
    ring.main()
    titles = [axes.get_title("left") for axes in figures[0].axes[: ring.FRAMES]]
    assert titles == [f"step {step}" for step in (0, 2, 4, 6, 8)]
    assert (tmp_path / "ring.png").stat().st_size > 5_000
    record = json.loads((tmp_path / "ring.json").read_text())
    assert {name: len(found["modes_covered"]) for name, found in record["results"].items()} == {
        "plain": 2,
        "AdaptiveWeights": 2,
    }
    assert {"jax", "optax", "cpu", "command"} <= record["machine"].keys()
