"""Small pieces of array code, of one matrix or a batch of them, on torch, NumPy and JAX."""

from __future__ import annotations

from typing import Any

from ...rule import Array, array_namespace


def matvec(matrix: Array, vector: Array) -> Array:
    return array_namespace(matrix).sum(matrix * vector[..., None, :], axis=-1)


def identity(matrix: Array) -> Array:
    return array_namespace(matrix).eye(matrix.shape[-1], **like(matrix))


def counting(array: Array, n: int) -> Array:
    """0, ..., n - 1 in the integers that the library counts in: JAX warns of int64 unless it was asked for."""
    return array_namespace(array).arange(n, **like(array, dtype=None))


def like(array: Array, **overrides: Any) -> dict[str, Any]:
    # NumPy arrays and JAX tracers answer `.device` differently; torch alone needs to be told where to build.
    where = {"device": array.device} if array_namespace(array).__name__.endswith("torch") else {}
    return {"dtype": array.dtype} | where | overrides
