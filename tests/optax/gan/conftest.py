"""The twins are held to each other in float64."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield
