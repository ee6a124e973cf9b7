"""Readable: a few numbers that lie in the memory of the host, and what is done faster with them there.

An operation of torch on an m x m matrix costs what its code and its bookkeeping cost to fetch, many times the
arithmetic. Where the numbers can be read without waiting for a device, Python reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["is_captured", "is_eager", "on_numpy", "readable"]

# NumPy 1 rounds differently: a float32 scalar times a Python number is float64 there
_SAME_DTYPES = int(np.__version__.partition(".")[0]) >= 2


def readable(tensor: Tensor) -> bool:
    """Whether the entries are numbers on the host, no device has to be waited for, and nobody records what is done.

    False for fake tensors, for those of a transform of `torch.func`, under a compiler, and where a derivative is
    wanted.
    """
    return tensor.device.type == "cpu" and not tensor.requires_grad and is_eager(tensor)


def is_eager(tensor: Tensor) -> bool:
    """Whether an operation is done at once, on values: no fake tensor, no transform of `torch.func`, no compiler."""
    return (
        type(tensor) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def is_captured(tensor: Tensor) -> bool:
    """Whether what is done to such a tensor now is recorded by a CUDA graph, to be replayed."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def on_numpy(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, which sees arrays in place of tensors, and whose arrays are returned as tensors.

    Example:
        >>> on_numpy(lambda x, *, y: {"sum": x + y, "type": type(x).__name__}, torch.ones(2), y=torch.tensor(2.0))
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
