"""What every test starts from: a seeded generator, and hypothesis without its clock."""

import pytest
import torch
from hypothesis import settings

# a busy machine is not a failing test
settings.register_profile("gradweight", deadline=None, max_examples=30, print_blob=True)
settings.load_profile("gradweight")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
