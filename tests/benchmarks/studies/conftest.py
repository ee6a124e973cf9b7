"""Small image files, as the real ones are laid out."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 28 x 28: a bright square at the top, in the middle or at the bottom, and noise."""
    where, random = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for name, n in (("train", 240), ("t10k", 120)):
        labels = random.integers(3, size=n).astype(np.uint8)
        images = random.integers(60, size=(n, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[9 * label : 9 * label + 9, 8:20] += 190
        (where / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (where / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return where
