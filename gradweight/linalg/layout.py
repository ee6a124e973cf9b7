"""Layout: in which order the elements of a gradient lie in memory, and how to read several of them in one order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = [
    "CHUNK",
    "LOW_PRECISION",
    "any_sharded",
    "chunks",
    "coordinates",
    "cut",
    "first_coordinates",
    "fits",
    "flatten",
    "is_dense",
    "is_sharded",
    "real_numbers",
]

LOW_PRECISION = (torch.float16, torch.bfloat16)
"""What is widened to float32 before anything is summed."""


CHUNK = 2**18
"""Elements of a row that are copied at a time, where something has to be copied."""


def chunks(tensors: Sequence[Tensor | None]) -> Iterator[list[Tensor | None]]:
    """Aligned 1-D pieces of tensors of one shape, real and in at least float32. At least one is not None."""
    flats = iter(flatten([t for t in tensors if t is not None]))
    aligned = [None if t is None else next(flats) for t in tensors]
    one = next(t for t in aligned if t is not None)
    widen = one.dtype in LOW_PRECISION
    for start in range(0, max(one.numel(), 1), CHUNK):
        pieces = [None if t is None else t[start : start + CHUNK] for t in aligned]
        yield [None if t is None else t.to(torch.float32) for t in pieces] if widen else pieces


def coordinates(tensor: Tensor) -> int:
    """How many real numbers ``tensor`` is made of."""
    return tensor.numel() * real_numbers(tensor)


def first_coordinates(tensors: Iterable[Tensor]) -> list[int]:
    """How many real numbers come before each tensor, and as the last entry how many there are in all."""
    return list(accumulate(map(coordinates, tensors), initial=0))


def real_numbers(tensor: Tensor) -> int:
    """How many real numbers an entry of ``tensor`` is made of: 2 if it is complex, else 1."""
    return 2 if tensor.is_complex() else 1


def cut(tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Aligned pieces of ``size`` elements, the last one shorter, of 1-D tensors of one length."""
    return zip(*(torch.split(t, size) for t in tensors), strict=True)


def flatten(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """1-D real views of tensors of one shape in one common order: that of the storage if all agree on it.

    Then nothing is copied. A complex tensor becomes its real and imaginary parts.
    """
    one = tensors[0]
    if one.is_complex():
        tensors = [torch.view_as_real(t.resolve_conj()) for t in tensors]
        one = tensors[0]
    if one.dim() == 1:
        return tensors
    if one.is_contiguous() or not is_dense(one) or any(t.stride() != one.stride() for t in tensors):
        return [t.reshape(-1) for t in tensors]
    return [t.as_strided((t.numel(),), (1,)) for t in tensors]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each place once, in whatever order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


_ORDINARY = {Parameter, Tensor}


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a DTensor, of which this process holds a part."""
    # by its attribute, so that torch.distributed.tensor is not imported where nothing is distributed; asking an
    # ordinary tensor for an attribute that it lacks is slow
    return type(tensor) not in _ORDINARY and hasattr(tensor, "_local_tensor")


def any_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether one of them is a DTensor."""
    return not set(map(type, tensors)) <= _ORDINARY and any(map(is_sharded, tensors))


def fits(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether the tensor can be the parameter's ``.grad``, with the strides that fused optimizers rely on."""
    return (
        tensor.shape == parameter.shape
        and tensor.dtype == parameter.dtype
        and tensor.device == parameter.device
        and (tensor.is_contiguous() or is_dense(tensor))
        and (tensor.stride() == parameter.stride() or not is_dense(parameter))
    )
