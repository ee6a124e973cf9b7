"""The loaders of image data, on tiny files made here."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.studies.images.datasets import DATASETS, fashion_mnist, read_idx, to_unit

from .conftest import idx

CIFAR = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def test_idx_files_are_read_as_they_were_written(folder: Path) -> None:
    images = fashion_mnist(folder)
    assert images.samples.shape == (240, 1, 32, 32)
    assert images.samples.dtype == torch.uint8
    assert images.test_labels.tolist() == list(
        np.frombuffer((folder / "t10k-labels-idx1-ubyte").read_bytes()[8:], "u1")
    )
    raw = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:], "u1")
    assert np.array_equal(images.samples[:, 0, 2:30, 2:30].numpy(), raw.reshape(-1, 28, 28))
    assert images.samples.sum() == raw.astype(int).sum()  # a black margin
    unit = to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    assert unit.tolist() == [-1.0, 1.0]


def test_what_is_no_idx_file_is_refused_by_name(tmp_path: Path) -> None:
    whole = idx(np.zeros((3, 2, 2), np.uint8))
    for raw, message in [(whole[:-1], "should hold 28 bytes for shape"), (b"\0\0\x0d\1", "IDX file of unsigned bytes")]:
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(ValueError, match=message):
            read_idx(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-mnist", "apt install dataset-fashion-mnist.*--data FOLDER"),
        ("cifar10", "bin"),
        ("cifar100", r"train\.bin"),
        ("stl10", "bin"),
    ],
)
def test_missing_data_say_how_to_get_them(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        DATASETS[name](tmp_path)


def test_cifar10_binary(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = {name: random.integers(256, size=(4, 3073)).astype(np.uint8) for name in CIFAR}
    for name, row in rows.items():
        row[:, 0] %= 10
        (tmp_path / name).write_bytes(row.tobytes())
    images = DATASETS["cifar10"](tmp_path)
    assert images.samples.shape == (20, 3, 32, 32)
    # the red plane comes first, row after row
    assert images.samples[5, 0, 1, 2] == rows["data_batch_2.bin"][1, 1 + 32 + 2]
    assert images.test_labels.tolist() == rows["test_batch.bin"][:, 0].tolist()


def test_cifar100_binary(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = {name: random.integers(100, size=(n, 3074)).astype(np.uint8) for name, n in (("train", 6), ("test", 3))}
    for name, row in rows.items():
        (tmp_path / f"{name}.bin").write_bytes(row.tobytes())
    images = DATASETS["cifar100"](tmp_path)
    assert images.samples.shape == (6, 3, 32, 32)
    # the coarse label, the fine one, the red plane
    assert images.train_labels.tolist() == rows["train"][:, 1].tolist()
    assert images.test[2, 0, 1, 2] == rows["test"][2, 2 + 32 + 2]


def test_stl10_binary(tmp_path: Path) -> None:
    image = np.zeros((2, 3, 96, 96), np.uint8)
    image[:, 1, 3:6, 0:3] = 90  # green, in column 1 and row 0 of the small image: columns are written first
    for name in ("unlabeled", "train", "test"):
        (tmp_path / f"{name}_X.bin").write_bytes(image.tobytes())
        (tmp_path / f"{name}_y.bin").write_bytes(bytes([1, 10]))
    images = DATASETS["stl10"](tmp_path)
    assert images.samples.nonzero().tolist() == [[0, 1, 0, 1], [1, 1, 0, 1]]
    assert images.samples[0, 1, 0, 1] == 90
    assert images.test_labels.tolist() == [0, 9]
    larger = DATASETS["stl10-48"](tmp_path)
    assert larger.pixels == 48
    # 2 x 2 pixels in one: column 1 is half of columns 2 and 3, and row 1 half of rows 2 and 3
    assert larger.samples[0, 1, :3, :4].tolist() == [[0, 45, 90, 0], [0, 22, 45, 0], [0, 0, 0, 0]]
