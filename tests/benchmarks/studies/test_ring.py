"""The ring study: runs trained side by side are the runs that the package's own optimizer makes, one by one."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.studies.ring import study as ring_study
from benchmarks.studies.ring.ensemble import Method, discriminate, generate
from benchmarks.studies.ring.study_runs import (
    BETAS,
    METHODS,
    QUICK,
    SLOPE,
    Setting,
    StudyEnsemble,
    networks,
    order,
    training_set,
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
    ensemble = StudyEnsemble(METHODS[name], SEEDS, SETTING, dtype=torch.float64)
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
    loss, ensemble = method.loss, StudyEnsemble(method, SEEDS, SETTING, dtype=torch.float64)
    indices = torch.stack([order(seed, 0, SETTING)[:, 0] for seed in SEEDS])
    real, noise = ensemble.real[indices[:, 0]], ensemble.noise[indices[:, 1]]
    d, g = ({k: p.detach().clone() for k, p in params.items()} for params in (ensemble.d, ensemble.g))
    ensemble.step(real, noise)
    new_d = {k: p.detach().clone() for k, p in ensemble.d.items()}

    def logits(phi: dict[str, Tensor], samples: Tensor) -> Tensor:
        return discriminate({k: p[None] for k, p in phi.items()}, samples[None], SLOPE)[0]

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
    whole, first, second = (StudyEnsemble(method, SEEDS, SETTING) for _ in range(3))
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

    def add(method: str, ensemble: StudyEnsemble) -> None:
        write(method, ensemble)
        written.append(ensemble.taken)
        if len(written) == 3:  # the first method at its end, the second half-way
            raise Stop

    monkeypatch.setattr(results, "add", add)
    with pytest.raises(Stop):
        ring_study.train(results, ring_study.jobs(methods, range(2), 2, 2), "cpu")
    assert written == [2, 4, 2]
    ensemble = StudyEnsemble(METHODS[methods[1]], [0, 1], QUICK)
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
    for method, seeds in ring_study.jobs(list(METHODS), range(100, 105), 3, 2):
        due.setdefault(method, []).extend(seeds)
    assert due == {name: list(range(100, 103 if method.aside else 105)) for name, method in METHODS.items()}
