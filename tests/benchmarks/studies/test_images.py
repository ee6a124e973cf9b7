"""The image study: its networks and judge, and its script end to end on tiny files made here."""

from __future__ import annotations

import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from benchmarks.studies.angles import measure as angle_study
from benchmarks.studies.images import compare as image_study
from benchmarks.studies.images.classifier import METRICS, Classifier, Judge, trained
from benchmarks.studies.images.datasets import fashion_mnist, to_unit
from benchmarks.studies.images.models import NOISE, SETTINGS, Setting, dcgan, networks
from benchmarks.studies.images.sizes import SIZES
from benchmarks.studies.images.training import METHODS, average_of, train
from benchmarks.studies.images.workers import run_all

# ---- networks and training


@pytest.mark.parametrize("name", SETTINGS)
def test_networks_make_and_judge_images(name: str) -> None:
    generator, discriminator = networks(name, 4, 3)
    images = generator(torch.randn(5, NOISE))
    assert images.shape == (5, 3, 32, 32)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (5, 1)


def test_sngan_takes_larger_images_and_dcgan_does_not() -> None:
    generator, discriminator = networks("sngan", 4, 3, 48)
    images = generator(torch.randn(2, NOISE))
    assert images.shape == (2, 3, 48, 48)
    assert discriminator(images).shape == (2, 1)
    with pytest.raises(ValueError, match="dcgan takes images of 32 pixels; got 48"):
        networks("dcgan", 4, 3, 48)
    with pytest.raises(ValueError, match="sngan takes images of 8 n pixels; got 28"):
        networks("sngan", 4, 1, 28)


def test_without_batch_norm_each_sample_is_judged_alone() -> None:
    net, x = dcgan(4, 1, batch_norm=False), torch.randn(6, 1, 32, 32)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    torch.testing.assert_close(net(x)[:2], net(x[:2]))
    assert net(x).std() > 0.1  # and the images make a difference from the start


@pytest.mark.parametrize("network", SETTINGS)
def test_methods_start_alike_and_then_differ(network: str) -> None:
    ends = {}
    for method in METHODS:
        torch.manual_seed(0)
        nets = networks(network, 4, 1)
        data = torch.randint(256, (32, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        assert list(train(nets, SETTINGS[network], METHODS[method], data, 2, 8, seed=3)) == [1, 2]
        ends[method] = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
    for method in ("aw", "AdvAs", "both"):
        g, d = (torch.equal(a, b) for a, b in zip(ends["plain"], ends[method], strict=True))
        assert not g
        assert not d or method == "AdvAs"
        assert all(torch.isfinite(x).all() for x in ends[method])


def test_settings_of_the_papers_do_what_they_say() -> None:
    data = torch.randint(256, (32, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    def trained_for(steps: int, setting: Setting) -> tuple[torch.Tensor, list[int], nn.Module]:
        torch.manual_seed(0)
        nets, seen = networks("dcgan", 4, 1), list[int]()
        nets[0].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        average = average_of(nets[0], 0.5)
        for _ in train(nets, setting, METHODS["aw"], data, steps, 8, seed=3):
            average.update_parameters(nets[0])
        return torch.cat([p.detach().flatten() for p in nets[0].parameters()]), seen, average

    plain = SETTINGS["dcgan"]
    two, seen, average = trained_for(2, plain)
    assert seen == [8, 8] * 2
    assert trained_for(1, replace(plain, generator_batch=12))[1] == [8, 12]
    assert not torch.equal(trained_for(2, replace(plain, betas=(0.0, 0.999)))[0], two)
    # the first step is at the full rate, the second at a half, the third at nothing
    one, ends = trained_for(1, plain)[0], [trained_for(n, replace(plain, decays=2))[0] for n in (1, 2, 3)]
    assert torch.equal(one, ends[0])
    assert not torch.equal(ends[1], two)
    assert torch.equal(ends[1], ends[2])
    # half of either state
    smooth = torch.cat([p.detach().flatten() for p in average.module.parameters()])
    torch.testing.assert_close(smooth, (one + two) / 2)


# ---- the judge


def test_the_judge_prefers_real_images_to_noise_and_to_one_class(folder: Path, tmp_path: Path) -> None:
    images = fashion_mnist(folder)
    net = trained(images, tmp_path / "c.pt", epochs=40)
    judge = Judge(images, net)
    assert judge.accuracy(images) > 0.95
    real = judge.of_real(60)
    noise = judge(torch.rand(60, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    one_class = judge(to_unit(images.samples[images.train_labels == 0][:60]))
    assert real.keys() == noise.keys() == METRICS.keys()
    for metric in ("classifier_fid", "sliced_wasserstein"):
        assert real[metric] < min(one_class[metric], noise[metric]) / 2
    assert real["classifier_score"] > 2.5 > 1.2 > one_class["classifier_score"]
    assert one_class["recall"] < 0.5 < real["recall"]
    again = trained(images, tmp_path / "c.pt", epochs=0)  # from the file
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_classifier_leaves_the_random_state_alone(folder: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    net = trained(fashion_mnist(folder), tmp_path / "c.pt", epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(net, Classifier)


# ---- the scripts


def test_images_runs_and_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["--data", str(folder), "--out", str(tmp_path), "--workers", "1", "--networks", "dcgan"]
    image_study.main([*some, "--quick", "--seeds", "1", "--methods", "plain", "AdvAs"])
    kept = (tmp_path / "runs.csv").read_text()
    # a run that was cut off after its first look
    (tmp_path / "runs.csv").write_text(kept + kept.splitlines()[1].replace("plain,0,2", "both,0,2") + "\n")
    image_study.main([*some, "--quick", "--methods", "plain", "AdvAs"])
    assert "DCGAN | AdvAs | 2" in capsys.readouterr().out
    text = (tmp_path / "runs.csv").read_text()
    assert text.startswith(kept)
    assert {(r["method"], r["seed"], r["step"]) for r in csv.DictReader(text.splitlines())} == {
        (m, s, step) for m in ("plain", "AdvAs") for s in "01" for step in "24"
    }
    record = json.loads((tmp_path / "images.json").read_text())
    assert [call["runs"] for call in record["calls that trained"]] == [2, 2]
    assert record["summary (mean, margin of 95%)"]["DCGAN"]["AdvAs"]["seeds"] == [0, 1]
    assert {"cpu", "torch", "command"} <= record["machine"].keys()
    assert all((tmp_path / name).stat().st_size > 4000 for name in ("images.png", "samples.png"))
    with pytest.raises(SystemExit, match="another setting"):
        image_study.main([*some, "--setting", "full"])


def test_images_with_the_settings_of_the_papers(folder: Path, tmp_path: Path) -> None:
    some = ["--quick", "--data", str(folder), "--out", str(tmp_path), "--workers", "1", "--networks", "sngan"]
    asked = ["--betas", "0", "0.999", "--batch", "6", "--generator-batch", "12", "--decay", "--average", "0.9"]
    image_study.main([*some, *asked, "--methods", "plain", "aw-2", "--seeds", "1", "--first-seed", "100"])
    settings = json.loads((tmp_path / "images.json").read_text())["settings"]
    given = {"betas": [0.0, 0.999], "batch": 6, "generator_batch": 12, "decay": True, "average": 0.9}
    assert {k: settings[k] for k in given} == given
    assert {r["seed"] for r in csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())} == {"100"}
    assert len(list(tmp_path.glob("samples-sngan-*.npy"))) == 2
    image_study.main([*some, *asked, "--methods", "plain", "aw-2", "--seeds", "1", "--first-seed", "100"])
    with pytest.raises(SystemExit, match="another setting"):
        image_study.main([*some, "--seeds", "1"])


@pytest.mark.parametrize("script", [image_study, angle_study])
def test_missing_data_end_a_script_with_advice(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(["--quick", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "apt install dataset-fashion-mnist" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))  # which would be a folder of runs on them


@pytest.mark.slow
def test_who_leaves_does_not_wait_for_the_runs_that_have_begun(folder: Path, tmp_path: Path) -> None:
    size = SIZES["tiny"]
    endless = replace(size, steps={"dcgan": 10**9}, looks=1)
    deadline = time.time() + 120
    jobs = [
        image_study.Job("dcgan", "plain", seed, some, "fashion-mnist", folder, tmp_path, "cpu", deadline)
        for seed, some in enumerate([size, *[endless] * 4])
    ]
    image_study.resume(tmp_path, {}, size, fresh=False)
    runs = run_all(image_study.run, jobs, 2)
    assert next(runs) == jobs[0]
    runs.close()  # as Ctrl-C does
    assert time.time() < deadline


def test_a_run_that_is_out_of_time_stops_and_is_not_counted(folder: Path, tmp_path: Path) -> None:
    some = ["--networks", "dcgan", "--methods", "aw", "--workers", "1", "--minutes", "0"]
    with pytest.raises(SystemExit):
        image_study.main([*some, "--quick", "--data", str(folder), "--out", str(tmp_path)])
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 1
