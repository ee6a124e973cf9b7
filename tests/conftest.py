"""What every test starts from: one thread, a seeded generator, hypothesis without its clock."""

import os
from collections.abc import Iterator
from typing import Any

# read when torch and NumPy are imported: their tensors are tiny here, and pytest already has a process on every core
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels run on the CPU, in Python

from hypothesis import settings

# a busy machine is not a failing test; where CI is set the examples are the same in every run
settings.register_profile("gradweight", deadline=None, max_examples=30, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("gradweight")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision by default, for this test alone: neurodiffeq asks for it when it is imported."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def triton_language() -> None:
    """Triton's interpreter replaces its language once for each module of kernels, and no more at every launch.

    It does so by hundreds of attributes, most of a small kernel's time.
    """
    if torch.cuda.is_available():
        return
    from triton.runtime import interpreter

    replace, done = interpreter._patch_lang, {}

    class Kept:
        """What a launch would undo."""

        def restore(self) -> None:
            """Leave it."""

    def once(function: Any) -> Kept:
        if function.__module__ not in done:
            done[function.__module__] = replace(function)
        return Kept()

    interpreter._patch_lang = once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
