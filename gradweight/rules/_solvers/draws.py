"""Random numbers as a function of (seed, step, index), in array code.

A generator with a hidden state would have to be read back by the host, would differ between the processes of a group
and would start again after a resume. A hash of a counter has none of that: the same draw comes from the same seed and
step, on every process, device and library, eager or compiled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...rule import Array, array_namespace

_MASK = 0xFFFFFFFF
# multipliers below 2**31, whose products with 32 bits int64 can hold
_FIRST, _SECOND, _THIRD = 0x7FEB352D, 0x45D9F3B, 0x2C1B3C6D


def uniforms(
    seed: int, step: Array, shape: tuple[int, ...], like: Array, salt: Array | int = 0, offset: int = 0
) -> Array:
    """Independent numbers, uniform on the open interval (0, 1), of the given shape and of the dtype of ``like``.

    Each is an odd multiple of 2**-24, the same in float32 and float64.

    Args:
        seed: which of the streams.
        step: 0-dim integer array, or an int.
        shape: of the result.
        like: an array of the library, device and dtype to answer in.
        salt: 0-dim integer array or an int that tells apart draws of one seed and step.
        offset: how many numbers of the stream to leave out: a stream can be drawn in parts, in any order.
    """
    xp = array_namespace(like)
    bits = _hash(seed, step, math.prod(shape), like, salt, offset)
    return xp.reshape((xp.astype(bits >> 9, like.dtype) + 0.5) * 2.0**-23, shape)


def normals(seed: int, step: Array, shape: tuple[int, ...], like: Array) -> Array:
    """Independent standard normal numbers (Box and Muller), of the given shape and of the dtype of ``like``."""
    xp = array_namespace(like)
    radius = xp.sqrt(-2 * xp.log(uniforms(seed, step, shape, like, salt=1)))
    return radius * xp.cos(2 * math.pi * uniforms(seed, step, shape, like, salt=2))


def permutations(seed: int, step: Array, count: int, n: int, like: Array) -> Array:
    """``count`` independent permutations of 0, ..., n - 1: (count, n) integers."""
    xp = array_namespace(like)
    return xp.argsort(uniforms(seed, step, (count, n), like), axis=-1)


def _hash(seed: int, step: Array, count: int, like: Array, salt: Array | int, offset: int) -> Array:
    """``count`` integers in [0, 2**32), (count,): those from number ``offset`` on."""
    xp = array_namespace(like)
    # JAX has no int64 unless asked for it, and torch and NumPy no quiet uint32; the low 32 bits are the same in both
    integer = xp.uint32 if "jax" in xp.__name__ else xp.int64
    where = {"device": like.device} if xp.__name__.endswith("torch") else {}

    def low_bits(number: Any) -> Any:
        # one dimension all along: NumPy warns of overflow in scalars, and the mixing is elementwise anyway
        if isinstance(number, int):
            return xp.full((1,), number & _MASK, dtype=integer, **where)
        return _low(xp.astype(xp.reshape(xp.asarray(number), (1,)), integer))

    mixed: Any = 0
    for number in (seed, step, salt):
        if isinstance(number, (np.ndarray, np.generic)):
            number = int(number)
        # Python's integers as long as there are no others
        whole = isinstance(number, int) and isinstance(mixed, int)
        mixed = _mix(mixed ^ (number & _MASK)) if whole else _mix(low_bits(mixed) ^ low_bits(number))
    indices = xp.arange(count, dtype=integer, **where)
    return _mix(low_bits(mixed) ^ _low(indices + (offset & _MASK)))


def _mix(x: Any) -> Any:
    """A bijection of 32-bit integers that changes about half of the output bits with any input bit."""
    x = _times(x ^ (x >> 16), _FIRST)
    x = _times(x ^ (x >> 15), _SECOND)
    x = _times(x ^ (x >> 16), _THIRD)
    return x ^ (x >> 15)


def _times(x: Any, factor: int) -> Any:
    return _low(x * factor)


def _low(x: Any) -> Any:
    return x & _MASK if isinstance(x, int) or x.dtype.itemsize > 4 else x
