"""What needs JAX and Optax is skipped without them."""

import pytest

pytest.importorskip("jax")
pytest.importorskip("optax")
