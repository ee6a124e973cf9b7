"""The Triton kernels, switched on for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gradweight.linalg.kernels import DEVICES

__all__ = ["by_kernels", "kernels_on"]


@contextmanager
def kernels_on(device: torch.device) -> Iterator[None]:
    """Gram matrix and direction on this kind of device by Triton kernels inside, whatever the default is."""
    before = set(DEVICES)
    DEVICES.add(device.type)
    try:
        yield
    finally:
        DEVICES.intersection_update(before)


def by_kernels(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same by the kernels."""

    def kernels() -> None:
        with kernels_on(device):
            run()

    return kernels
