"""The rules for Optax: losses by name, one gradient each, combined in front of the transformations you already have.

Needs JAX and Optax, and no torch: ``pip install 'gradweight[optax]'``.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"gradweight.optax needs {error.name}, which is not installed: pip install 'gradweight[optax]'", name=error.name
    ) from error

from . import gan
from .accumulation import AccumulateState, accumulate
from .combination import CombineState, combine
from .gradients import loss_gradients, value_and_combined_grad
from .rows import stack

__all__ = [
    "AccumulateState",
    "CombineState",
    "accumulate",
    "combine",
    "gan",
    "loss_gradients",
    "stack",
    "value_and_combined_grad",
]
