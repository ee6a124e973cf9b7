"""What every test starts from: one thread, a seeded generator, hypothesis without its clock."""

import os

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
