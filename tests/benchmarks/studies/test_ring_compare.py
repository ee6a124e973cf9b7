"""The main example: seeds trained as one ensemble are single runs, and what is cited is whole or as it was."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import folders
from benchmarks.studies.ring import compare
from benchmarks.studies.ring.compare_runs import Results, Run, kept
from gradweight import MultiObjectiveGradient
from gradweight.gan import Vanilla, probability_scores
from gradweight.rules import Sum

from ..running import run


@pytest.mark.parametrize("setting", compare.SETTINGS.values(), ids=list(compare.SETTINGS))
def test_the_seeds_of_an_ensemble_are_single_runs(setting: compare.Setting) -> None:
    seeds, steps, loss = [100, 7], 4, Vanilla()
    runs = compare.ensemble("aw", seeds, setting, torch.float64)
    assert [*compare.train(runs, seeds, setting, steps)] == [1, 2, 3, 4]
    for i, seed in enumerate(seeds):
        g, d = (network.double() for network in compare.networks(seed, setting))
        rules = Sum(), compare.METHODS["aw"].rule
        g_opt, d_opt = (
            MultiObjectiveGradient(torch.optim.Adam(net.parameters(), compare.LEARNING_RATE, betas=setting.betas), rule)
            for net, rule in zip((g, d), rules, strict=True)
        )
        for _, (real, noise) in zip(range(steps), compare.batches(seed, setting), strict=False):
            fake = g(noise.double())
            d_opt.zero_grad()
            logits = d(real.double()), d(fake.detach())
            d_opt.backward(loss.discriminator(*logits), **probability_scores(*logits))
            d_opt.step()
            g_opt.zero_grad()
            g_opt.backward(loss.generator(d(fake)))
            g_opt.step()
        for params, network in ((runs.g, g), (runs.d, d)):
            for j, layer in enumerate(m for m in network if isinstance(m, nn.Linear)):
                # Adam divides by the root of a mean square: an entry whose gradient is nearly 0 amplifies rounding
                torch.testing.assert_close(params[f"{j}.weight"][i].mT, layer.weight, rtol=0, atol=1e-9)
                torch.testing.assert_close(params[f"{j}.bias"][i, 0], layer.bias, rtol=0, atol=1e-9)
    assert not torch.equal(runs.g["0.bias"][0], runs.g["0.bias"][1])


@pytest.mark.parametrize("method", ["plain", "aw"])
def test_a_run_has_the_same_bits_whoever_is_beside_it(method: str) -> None:
    setting = compare.SETTINGS["unstable"]

    def trained(seeds: list[int]) -> compare.Ensemble:
        runs = compare.ensemble(method, seeds, setting)
        for _ in compare.train(runs, seeds, setting, 15):
            pass
        return runs

    block, others = trained([100, 101, 102, 103, 104]), trained([104, 5, 101])
    for a, b in ((block.g, others.g), (block.d, others.d)):
        for name in a:
            assert torch.equal(a[name][[4, 1]], b[name][[0, 2]])


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    some = ["--steps", "20", "--seeds", "3", "--first-seed", "7", "--workers", "1", "--out", str(tmp_path)]
    table = run("-m", "benchmarks.studies.ring.compare", *some)
    assert "aw minus plain, mean over 3 paired seeds" in table
    assert "seeds that are cited" in table
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"7", "8", "9"}
    assert (tmp_path / "ring.png").stat().st_size > 10_000
    record = json.loads((tmp_path / "ring.json").read_text())["machine"]
    assert {"cpu", "cores", "torch", "date"} <= record.keys()
    assert "python -m benchmarks.studies.ring.compare" in record["command"]


def test_a_ring_of_nothing_is_refused_before_anything_is_written_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("--steps", "--seeds", "--workers"):
        monkeypatch.setattr(sys, "argv", ["ring.py", name, "0", "--out", str(tmp_path)])
        with pytest.raises(SystemExit):
            compare.main()
        assert f"argument {name}: must be at least 1; got 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def finished(method: str, seed: int) -> Run:
    result = Run(method, seed, 0.02)
    result.look(5, compare.MODES.repeat(4, 1), keep=True)
    return result


def test_what_is_cited_is_replaced_when_all_is_done_and_not_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "ROOT", tmp_path)
    monkeypatch.setattr(folders, "CITED", tmp_path / "cited")
    cited = tmp_path / "cited" / "ring"
    cited.mkdir(parents=True)
    (cited / "runs.csv").write_text("what was there")

    def stopped(*_: object) -> object:
        yield finished("plain", 100)
        raise KeyboardInterrupt

    def whole(*_: object) -> object:
        yield from (finished(method, 100) for method in ("plain", "aw"))

    monkeypatch.setattr(sys, "argv", ["compare.py", "--seeds", "1", "--cite"])
    monkeypatch.setattr(compare, "run_all", stopped)
    compare.main()
    assert "interrupted" in capsys.readouterr().out
    assert [path.name for path in cited.iterdir()] == ["runs.csv"]
    assert (cited / "runs.csv").read_text() == "what was there"
    assert len((tmp_path / "build" / "cited" / "ring" / "runs.csv").read_text().splitlines()) == 2

    monkeypatch.setattr(compare, "run_all", whole)
    compare.main()
    assert not (tmp_path / "build" / "cited" / "ring").exists()
    assert {path.name for path in cited.iterdir()} == {"runs.csv", "ring.json", "ring.png", "samples.npz"}
    assert len((cited / "runs.csv").read_text().splitlines()) == 3


def test_an_earlier_table_stays_whole_until_the_new_one_is(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("what was there")
    Results(tmp_path, {}).add(finished("plain", 100))
    assert (tmp_path / "runs.csv").read_text() == "what was there"
    assert len((tmp_path / "runs.part.csv").read_text().splitlines()) == 2


def test_what_is_cited_is_shown_beside_what_was_run() -> None:
    text = kept("ring", ["plain", "aw"])
    assert "the 40 seeds that are cited" in text
    assert len(text.splitlines()) == 4
    assert kept("no such folder", ["plain"]) == ""
