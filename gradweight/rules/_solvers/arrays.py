"""Small pieces of array code, of one matrix or a batch of them, on torch, NumPy and JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...rule import Array, array_namespace


def matvec(matrix: Array, vector: Array) -> Array:
    """``matrix @ vector``, of each of a batch of vectors, too: (..., m, n), (..., n) -> (..., m).

    As sums of products on torch and JAX: matrix multiplication may be set to TF32, or to bfloat16 by autocast, for the
    network's sake, and eight digits less would undo what the solvers do.
    """
    if is_numpy(matrix) and matrix.ndim == 2:
        return vector @ matrix.T
    return array_namespace(matrix).sum(matrix * vector[..., None, :], axis=-1)


def identity(matrix: Array) -> Array:
    if is_numpy(matrix):
        return np.eye(matrix.shape[-1], dtype=matrix.dtype)
    return array_namespace(matrix).eye(matrix.shape[-1], **like(matrix))


def counting(array: Array, n: int) -> Array:
    """0, ..., n - 1 in the integers that the library counts in: JAX warns of int64 unless it was asked for."""
    return array_namespace(array).arange(n, **like(array, dtype=None))


def like(array: Array, **overrides: Any) -> dict[str, Any]:
    # NumPy arrays and JAX tracers answer `.device` differently; torch alone needs to be told where to build.
    where = {"device": array.device} if array_namespace(array).__name__.endswith("torch") else {}
    return {"dtype": array.dtype} | where | overrides


def total(array: Array) -> Array:
    """The sum along the last axis, for which NumPy's own function takes half as long as the array API's."""
    return np.add.reduce(array, axis=-1) if is_numpy(array) else array_namespace(array).sum(array, axis=-1)


def at_least(array: Array, low: Any) -> Array:
    """``xp.clip(array, low, None)``, for which the array API's view of NumPy takes ten times as long as NumPy."""
    return np.maximum(array, low) if is_numpy(array) else array_namespace(array).clip(array, low, None)


def at_most(array: Array, high: Any) -> Array:
    """``xp.clip(array, None, high)``."""
    return np.minimum(array, high) if is_numpy(array) else array_namespace(array).clip(array, None, high)


def chosen(array: Array, indices: Sequence[int]) -> Array:
    """``array[indices]`` along the first axis; by a list, which JAX takes for no index."""
    return array[list(indices)] if is_numpy(array) else array_namespace(array).stack([array[i] for i in indices])


def is_numpy(array: Array) -> bool:
    return isinstance(array, (np.ndarray, np.generic))
