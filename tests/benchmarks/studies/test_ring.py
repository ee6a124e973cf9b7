"""The ring study: runs trained side by side are the runs that the package's own optimizer makes, one by one."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.folders import CITED, ROOT
from benchmarks.studies.intervals import bootstrap, mean_and_margin, sign_test, wilson
from benchmarks.studies.ring import study as ring_study
from benchmarks.studies.ring.ensemble import (
    BETAS,
    HALF,
    METHODS,
    QUICK,
    Ensemble,
    Method,
    Setting,
    discriminate,
    generate,
    networks,
    order,
    training_set,
)
from benchmarks.studies.ring.study_report import (
    BEGIN,
    CLAIMS,
    END,
    End,
    compare,
    ends_of,
    insert,
    off_centre,
    summarise,
    tables,
    verdict,
)
from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.gan import advas_penalty, probability_scores
from gradweight.rules import AdvAs, Sum

SETTING = dataclasses.replace(QUICK, steps=6, train=48)  # two epochs of three steps
SEEDS = [5, 0, 3]


def one_by_one(method: Method, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A run as a user would write it: modules, two optimizers, named losses."""
    loss, setting = method.loss, SETTING
    generator, discriminator = (network.double() for network in networks(seed, setting))
    g_opt, d_opt = (
        MultiObjectiveGradient(torch.optim.Adam(network.parameters(), setting.learning_rate, betas=BETAS), rule)
        for network, rule in ((generator, AdvAs() if method.advas else Sum()), (discriminator, method.rule or Sum()))
    )
    all_real, all_noise = (x.double() for x in training_set(setting))
    for step in range(setting.steps):
        indices = order(seed, step // setting.epoch, setting)[:, step % setting.epoch]
        real, fake = all_real[indices[0]], generator(all_noise[indices[1]])

        d_opt.zero_grad()
        logits = discriminator(real), discriminator(fake.detach())
        d_opt.backward(loss.discriminator(*logits), **(probability_scores(*logits) if method.rule else {}))
        d_opt.step()

        g_opt.zero_grad()
        terms = dict(loss.generator(discriminator(fake)))
        if method.advas:

            def adversary_loss(phi: dict[str, Tensor], real: Tensor = real, fake: Tensor = fake) -> Tensor:
                logits = (functional_call(discriminator, phi, (x,)) for x in (real, fake))
                return torch.stack(list(loss.discriminator(*logits).values())).sum()

            terms["advas"] = advas_penalty(adversary_loss, dict(discriminator.named_parameters()))
        g_opt.backward(terms)
        g_opt.step()
    return generator, discriminator


def linear(network: nn.Sequential) -> Iterator[nn.Linear]:
    return (m for m in network if isinstance(m, nn.Linear))


@pytest.mark.parametrize("name", METHODS)
def test_runs_side_by_side_are_single_runs(name: str) -> None:
    ensemble = Ensemble(METHODS[name], SEEDS, SETTING, dtype=torch.float64)
    assert list(ensemble.train()) == [1, 2, 3, 4, 5, 6]
    for i, seed in enumerate(SEEDS):
        for params, network in zip((ensemble.g, ensemble.d), one_by_one(METHODS[name], seed), strict=True):
            for j, layer in enumerate(linear(network)):
                # Adam divides by the root of a mean square: an entry whose gradient is nearly 0 amplifies rounding
                torch.testing.assert_close(params[f"{j}.weight"][i].mT, layer.weight, rtol=0, atol=1e-9)
                torch.testing.assert_close(params[f"{j}.bias"][i, 0], layer.bias, rtol=0, atol=1e-9)
        # the runs have moved, by far more than the tolerance
        assert (ensemble.g["0.bias"][i, 0] - next(linear(networks(seed, SETTING)[0])).bias).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["saturating/alpha (0.5, 1)", "non-saturating/aw", "non-saturating/advas"])
def test_a_step_side_by_side_is_the_functional_transform_under_vmap(name: str) -> None:
    method = METHODS[name]
    loss, ensemble = method.loss, Ensemble(method, SEEDS, SETTING, dtype=torch.float64)
    indices = torch.stack([order(seed, 0, SETTING)[:, 0] for seed in SEEDS])
    real, noise = ensemble.real[indices[:, 0]], ensemble.noise[indices[:, 1]]
    d, g = ({k: p.detach().clone() for k, p in params.items()} for params in (ensemble.d, ensemble.g))
    ensemble.step(real, noise)
    new_d = {k: p.detach().clone() for k, p in ensemble.d.items()}

    def logits(phi: dict[str, Tensor], samples: Tensor) -> Tensor:
        return discriminate({k: p[None] for k, p in phi.items()}, samples[None])[0]

    def fakes(theta: dict[str, Tensor], noise: Tensor) -> Tensor:
        return generate({k: p[None] for k, p in theta.items()}, noise[None])[0]

    def d_losses(phi: dict[str, Tensor], real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        both = logits(phi, real), logits(phi, fake)
        return loss.discriminator(*both), probability_scores(*both) if method.rule else {}

    def g_losses(theta: dict[str, Tensor], phi: dict[str, Tensor], real: Tensor, noise: Tensor) -> dict[str, Tensor]:
        fake = fakes(theta, noise)
        terms = dict(loss.generator(logits(phi, fake)))
        if method.advas:

            def adversary_loss(p: dict[str, Tensor]) -> Tensor:
                return torch.stack(list(loss.discriminator(logits(p, real), logits(p, fake)).values())).sum()

            terms["advas"] = advas_penalty(adversary_loss, phi, engine="func")
        return terms

    d_rule, g_rule = method.rule or Sum(), AdvAs() if method.advas else Sum()
    fake = torch.vmap(fakes)(g, noise)
    d_direction, _ = torch.vmap(combined_grad(d_losses, d_rule, has_signals=True))(d, real, fake)
    g_direction, _ = torch.vmap(combined_grad(g_losses, g_rule))(g, new_d, real, noise)
    for params, direction in ((ensemble.d, d_direction), (ensemble.g, g_direction)):
        for key, p in params.items():
            torch.testing.assert_close(p.grad, direction[key], rtol=1e-9, atol=1e-12)


def test_an_ensemble_goes_on_where_it_stood() -> None:
    method = METHODS["non-saturating/aw"]
    whole, first, second = (Ensemble(method, SEEDS, SETTING) for _ in range(3))
    for taken in first.train():
        if taken == 4:  # in the second epoch
            break
    second.load_state_dict(first.state_dict())
    assert [*whole.train()][-1] == [*second.train()][-1] == SETTING.steps
    for a, b in zip((whole.g, whole.d), (second.g, second.d), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


# ---- the script


def study(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ring_study.py", "--quick", *arguments])
    ring_study.main()


def test_a_stopped_study_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["non-saturating/plain", "non-saturating/aw"]
    study(monkeypatch, "--out", str(tmp_path / "whole"), "--methods", *methods)
    assert "non-saturating" in capsys.readouterr().out

    class Stop(Exception):
        """In place of a Ctrl-C, which pytest would take for itself."""

    results = ring_study.Results(tmp_path / "stopped", QUICK)
    write, written = results.add, []

    def add(method: str, ensemble: Ensemble) -> None:
        write(method, ensemble)
        written.append(ensemble.taken)
        if len(written) == 3:  # the first method at its end, the second half-way
            raise Stop

    monkeypatch.setattr(results, "add", add)
    with pytest.raises(Stop):
        ring_study.train(results, ring_study.jobs(methods, 2, 2, 2), "cpu")
    assert written == [2, 4, 2]
    ensemble = Ensemble(METHODS[methods[1]], [0, 1], QUICK)
    ring_study.Results(tmp_path / "stopped", QUICK).resume(methods[1], [0, 1], ensemble)
    assert ensemble.taken == 2
    study(monkeypatch, "--out", str(tmp_path / "stopped"), "--methods", *methods)

    whole, stopped = ((tmp_path / name / "runs.csv").read_text() for name in ("whole", "stopped"))
    assert whole == stopped
    assert len(list(csv.DictReader(whole.splitlines()))) == 2 * 2 * 2  # methods, seeds, moments
    record = json.loads((tmp_path / "stopped" / "study.json").read_text())
    assert record["machine"]["torch"] == torch.__version__
    assert (tmp_path / "stopped" / "ring_study.png").stat().st_size > 10_000
    assert not (tmp_path / "stopped" / "checkpoint.pt").exists()
    with pytest.raises(SystemExit, match="another setting"):
        ring_study.Results(tmp_path / "stopped", Setting())


def test_every_method_is_trained_with_as_many_seeds_as_it_is_due() -> None:
    due: dict[str, list[int]] = {}
    for method, seeds in ring_study.jobs(list(METHODS), 5, 3, 2):
        due.setdefault(method, []).extend(seeds)
    assert due == {name: list(range(3 if method.aside else 5)) for name, method in METHODS.items()}


# ---- what is said of the runs


@given(n=st.integers(1, 300), share=st.floats(0, 1))
def test_intervals_of_rates(n: int, share: float) -> None:
    k = round(share * n)
    low, high = wilson(k, n)
    reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
    # z = 1.96 here and 1.95996 there
    assert (low, high) == (pytest.approx(reference.low, abs=2e-5), pytest.approx(reference.high, abs=2e-5))


@given(better=st.integers(0, 200), worse=st.integers(0, 200))
def test_sign_test(better: int, worse: int) -> None:
    p = sign_test(better, worse)
    assert p == sign_test(worse, better)
    assert p == pytest.approx(binomtest(better, better + worse).pvalue if better + worse else 1.0, rel=1e-9)


def test_intervals_of_means_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = {"bootstrap": 0, "student": 0}
    for _ in range(400):
        values = list(random.normal(2.0, 1.0, size=16))
        mean, low, high = bootstrap(values, resamples=1000)
        assert mean == pytest.approx(np.mean(values))
        covered["bootstrap"] += low <= 2.0 <= high
        mean, margin = mean_and_margin(values)
        covered["student"] += abs(mean - 2.0) <= margin
    # 380 of 400 expected, standard deviation 4.4; percentiles of 16 values are known to fall short by 3 points
    assert 350 <= covered["bootstrap"] <= 395
    assert 365 <= covered["student"] <= 395


def runs(modes: list[int]) -> dict[int, End]:
    return {seed: End(m, m / 8, math.nan if m == 0 else 0.1) for seed, m in enumerate(modes)}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([8] * 6, [3] * 6, "**held**"),
        ([8] * 5, [3] * 5, "same direction, not clear"),
        ([8, 3, 3], [3, 8, 3], "no difference"),
        ([8, 3, 3], [8, 8, 3], "opposite direction, not clear"),
        ([7] * 6, [8] * 6, "**did not hold**: the opposite"),
    ],
)
def test_verdicts(ours: list[int], theirs: list[int], expected: str) -> None:
    success, failure = (next(c for c in CLAIMS if c.metric == metric) for metric in ("success", "failure"))
    both = {success.method: runs(ours), success.other: runs(theirs)}
    assert verdict(success, compare(both, success.method, success.other)) == expected
    # less is better
    failing = {
        failure.method: runs([0 if m == 8 else m for m in theirs]),
        failure.other: runs([0 if m == 8 else m for m in ours]),
    }
    assert verdict(failure, compare(failing, failure.method, failure.other)) == expected


def test_only_paired_seeds_are_compared_and_divergence_is_counted() -> None:
    ends = {"saturating/plain": runs([8, 0, 8]), "saturating/aw": runs([8, 8])}
    assert compare(ends, "saturating/aw", "saturating/plain")["seeds"] == 2
    entry = summarise(ends)["saturating/plain"]
    assert (entry["diverged"], entry["success"][0], entry["failure"][0]) == (1, 2, 1)
    assert entry["kl"][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("folder", "setting", "option"), [("ring_study", Setting(), ""), ("ring_study_half", HALF, "--half")]
)
def test_the_page_shows_what_is_in_the_results(folder, setting, option) -> None:
    """docs/reproduced.md is what `ring_study.py --report` makes of the runs that are kept."""
    results = CITED / folder
    rows, distances = ring_study.read_rows(results / "runs.csv"), off_centre(results / "samples.npz")
    page = (ROOT / "docs" / "reproduced.md").read_text()
    assert insert(page, tables(ends_of(rows, setting), setting, distances), option) == page


def test_distance_of_the_samples_mean_from_the_centre(tmp_path: Path) -> None:
    far, near = np.array([[3.0, 4.0], [3.0, 6.0], [3.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    kept = {"saturating|aw|0": far, "saturating|aw|1": near, "saturating|plain|0": near}
    np.savez(tmp_path / "samples.npz", **{name: x.astype(np.float16) for name, x in kept.items()})
    distances = off_centre(tmp_path / "samples.npz")
    assert distances == {"saturating/aw": (0.5, 5.0), "saturating/plain": (0.5, 0.5)}
    ends = {name: runs([0, 0]) for name in distances}
    assert "runs whose samples are kept: saturating aw, 0 to 5.\n" in tables(ends, Setting(), distances)
    assert off_centre(tmp_path / "none.npz") == {}


def test_a_page_without_its_marks_is_refused() -> None:
    for option, mark in (("", BEGIN.format("")), ("--half", BEGIN.format(" --half"))):
        assert insert(f"a\n{mark}\nold\n{END}\nb", "new", option) == f"a\n{mark}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="needs the lines"):
        insert("a\n<!-- from here -->\nb", "new")
