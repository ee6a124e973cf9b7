"""The script that measures steps with Optax runs on tiny settings, and counts what it says."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import __main__ as everything

pytest.importorskip("optax")


@pytest.fixture(scope="module")
def script():
    from benchmarks.cost import optax

    return optax


def measured(monkeypatch, script, out, *arguments):
    monkeypatch.setattr(sys, "argv", ["optax.py", *arguments, "--rounds", "4", "--quick", "--out", str(out)])
    script.main()
    record = json.loads((out / "optax.json").read_text())
    assert {"cpu", "cores", "jax", "optax", "command"} <= record["results"][0]["machine"].keys()
    return record["results"]


def test_a_step(tmp_path, monkeypatch, script):
    [mlp] = measured(monkeypatch, script, tmp_path, "--cells", "mlp", "--variants", "UPGrad, each", "--seconds", "0")
    assert [*mlp["ratio_quartiles"]] == [*mlp["compiled"]] == [script.PLAIN, "UPGrad, each"]
    assert mlp["ratio_quartiles"][script.PLAIN] == [1, 1, 1]
    plain, ours = mlp["compiled"].values()
    assert ours["loops"] == plain["loops"] == 0
    assert ours["instructions"] > plain["instructions"] > 10
    # nine, less the one of adding up the two gradients, and what XLA does twice to have it at hand for Adam
    assert 8 <= ours["more_operations_per_parameter"] <= 11
    assert ours["temporary_ratio"] < 1.1


@pytest.mark.slow
def test_every_mode(tmp_path, monkeypatch, script):
    results = measured(monkeypatch, script, tmp_path, "--cells", "heads,mlp", "--seconds", "0")
    assert [result["cell"] for result in results] == ["mlp", "heads"]
    names = [f"{rule}, {mode}" for rule in ("AngleBisector", "UPGrad") for mode in ("each", "vmap", "vjp")]
    for result in results:
        assert [*result["ratio_quartiles"]] == [script.PLAIN, *names]


def test_instructions(script):
    program = """HloModule m
%fused (p: f32[]) -> f32[] {
  %a = f32[] add(%p, %p)
}

ENTRY %main (p: f32[]) -> (f32[], s32[]) {
  %p = f32[] parameter(0)
  %f = f32[3]{0} fusion(%p), kind=kLoop, calls=%fused
  %w = (f32[], s32[]) while(%p), condition=%c, body=%b
  ROOT %t = (f32[], s32[]) tuple(%f, %w)
}"""
    assert script.instructions(program) == {"instructions": 2, "loops": 1}


def test_what_is_not_installed_is_left_out(monkeypatch):
    assert everything.missing("step", "cuda") is None
    assert everything.missing("optax", "cpu") is None
    monkeypatch.setattr(everything, "find_spec", lambda name: None)
    assert everything.missing("optax", "cpu") == "JAX and Optax"
    monkeypatch.setattr(everything, "find_spec", lambda name: None if "cuda" in name else name)
    assert everything.missing("optax", "cuda") == "JAX for CUDA"
