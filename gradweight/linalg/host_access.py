"""Host access: which tensors can be read without a host sync, and what is done faster with them in NumPy.

An operation of torch on an m x m matrix costs its dispatch, many times the arithmetic. Where the numbers lie in host
memory, Python and NumPy read them instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..torch_private import is_transformed

__all__ = ["call_with_numpy", "is_captured", "is_eager", "is_host_readable", "is_launch_bound"]

# NumPy 1 rounds differently: a float32 scalar times a Python number is float64 there
_SAME_DTYPES = int(np.__version__.partition(".")[0]) >= 2


def is_host_readable(tensor: Tensor) -> bool:
    """Whether this is a plain CPU tensor outside autograd, functorch and ``torch.compile``: no host sync to read it.

    False for fake tensors, for those of a transform of `torch.func`, under a compiler, and where a derivative is
    wanted.
    """
    return tensor.device.type == "cpu" and not tensor.requires_grad and is_eager(tensor)


def is_eager(tensor: Tensor) -> bool:
    """Whether an operation is done at once, on values: no fake tensor, no transform of `torch.func`, no compiler."""
    return type(tensor) is Tensor and not torch.compiler.is_compiling() and not is_transformed(tensor)


def is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the current stream of a CUDA tensor."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def is_launch_bound(device: torch.device) -> bool:
    """Whether an operation on the device is launched, at a cost of its own, instead of done in the calling thread.

    There one operation on many tensors (``torch._foreach_*``) is best; on a CPU, one for each tensor, while it is in
    the cache.
    """
    return device.type != "cpu"


def call_with_numpy(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, which sees arrays in place of tensors, and whose arrays are returned as tensors.

    Example:
        >>> def rule(x, *, y):
        ...     return {"sum": x + y, "type": type(x).__name__}
        >>> call_with_numpy(rule, torch.ones(2), y=torch.tensor(2.0))
        {'sum': tensor([3., 3.]), 'type': 'ndarray'}
    """
    if not _SAME_DTYPES:
        return function(*args, **kwargs)
    with np.errstate(all="ignore"):  # as in torch, inf and NaN are values
        result = function(*map(_array, args), **{name: _array(value) for name, value in kwargs.items()})
    return _tensor(result)


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().numpy()
    return {name: _array(entry) for name, entry in value.items()} if isinstance(value, dict) else value


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value))  # a copy: it may be a view of the matrix, or not writable
    if isinstance(value, dict):
        return {name: _tensor(entry) for name, entry in value.items()}
    return tuple(map(_tensor, value)) if isinstance(value, tuple) else value
