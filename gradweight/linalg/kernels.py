"""Kernels: Gram matrix and direction in one launch each, by Triton, where there is nothing to trace.

Every gradient is read once for either and nothing is copied, where the operations of torch that `gram` and `together`
use on a device copy small tensors and go over the direction once for each loss. What it takes is a table of
addresses, sent to the device with each launch.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .foreach import Column
from .host_access import is_captured, is_eager
from .layout import LOW_PRECISION, is_dense
from .tables import recorded_tables, to_device

__all__ = ["DEVICES", "chunk_numbers", "current_stream", "kernel_supports", "products_kernel", "weighted_sum_kernel"]

DEVICES: set[str] = {"cuda"}
"""Kinds of devices where the kernels are used, if Triton can compile for them; discard "cuda" to do without."""

CHUNK = 2**14
"""Elements of a tensor that one program works on, all its losses' gradients together."""

FEW, MANY = 16, 32
"""Up to how many gradients are multiplied pair by pair in registers, and up to how many at all."""

_BLOCK = 1024
_PAIR_BLOCKS = {4: (1024, 4), 12: (128, 4), 16: (64, 2)}
"""Up to so many gradients: elements at a time and warps of the products pair by pair. Each pair has a sum in registers,
so that more gradients leave room for fewer elements."""

_MANY_BLOCK = 64
_KINDS = (torch.float64, torch.float32, *LOW_PRECISION)


def kernel_supports(tensors: Sequence[Tensor], m: int) -> bool:
    """Whether the kernels are used for these tensors of one shape and dtype, the gradients of m losses.

    Not under a compiler or a transform, and not while a CUDA graph is captured, which would keep the table of addresses
    as it is, unless the one who captures it rewrites the table. Not for complex numbers, for tensors whose elements lie
    in different orders, or for ones with the lazy negation bit set.
    """
    one = tensors[0]
    if one.device.type not in DEVICES or m > MANY or one.dtype not in _KINDS or not all(map(is_eager, tensors)):
        return False
    tables = recorded_tables()
    return (
        (not is_captured(one) if tables is None else tables.know(tensors))
        and is_dense(one)
        and all(t.stride() == one.stride() and not t.is_neg() for t in tensors)
        and _can_compile(one.device)
    )


def products_kernel(columns: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Inner products of each row with itself and with those after it: (m (m + 1) / 2,), double precision.

    The columns are of one dtype, on one device, and the kernels support them. Sums over at most `CHUNK` elements are
    formed in float32 (float64 for double precision), none of them one after the other all along, sums of those in
    float64.
    """
    from . import triton_kernels

    m = len(columns[0])
    ones = [next(t for t in column if t is not None) for column in columns]
    like = ones[0]
    device, wide = like.device, _wide(like.dtype)
    chunks = _chunks(tuple(t.numel() for t in ones), device)
    addresses = _table([0 if t is None else t.data_ptr() for column in columns for t in column], device)
    out = torch.empty((len(chunks), m * (m + 1) // 2), dtype=wide, device=device)
    if not len(chunks):
        return out.sum(0, dtype=torch.float64)
    types = {"TYPE": _type(like.dtype), "WIDE": _type(wide), "CHUNK": CHUNK}
    if m <= FEW:
        block, warps = next(size for most, size in _PAIR_BLOCKS.items() if m <= most)
        block = min(block, CHUNK)
        launch(triton_kernels.dots, len(chunks), addresses, chunks, out, M=m, BLOCK=block, num_warps=warps, **types)
    else:
        types |= {"PADDED": 32, "BLOCK": _MANY_BLOCK}
        launch(triton_kernels.products, len(chunks), addresses, chunks, out, M=m, **types)
    return out.sum(0, dtype=torch.float64)


def weighted_sum_kernel(columns: Sequence[Column], weights: Tensor) -> None:
    """Write ``sum_i weights[i] * gradients[i]`` into targets of one dtype on one device that the kernels support.

    A target may be one of its gradients. The (m,) weights are of the dtype of the gradients, float32 for half
    precision; in it the sums are formed, and rounded once.
    """
    from . import triton_kernels

    like = columns[0][0]
    device = like.device
    chunks = _chunks(tuple(target.numel() for target, _ in columns), device)
    if not len(chunks):
        return
    found = [0 if t is None else t.data_ptr() for _, tensors in columns for t in tensors]
    table = _table([*found, *(target.data_ptr() for target, _ in columns)], device)
    addresses, targets = table[: len(found)], table[len(found) :]
    types = {"TYPE": _type(like.dtype), "WIDE": _type(weights.dtype), "CHUNK": CHUNK, "BLOCK": _BLOCK}
    tables = addresses, targets, chunks
    launch(triton_kernels.weighted_sum, len(chunks), *tables, weights.contiguous(), M=len(weights), **types)


def launch(kernel: Any, programs: int, *args: Tensor, **constants: Any) -> None:
    """Launch so many programs of a kernel on the device of its arguments."""
    device = args[0].device
    with torch.cuda.device(device if device.type == "cuda" else -1):
        kernel[(programs,)](*args, **constants)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _type(dtype: torch.dtype) -> Any:
    from triton import language

    return getattr(language, str(dtype).removeprefix("torch."))


def _table(addresses: list[int], device: torch.device) -> Tensor:
    tables = recorded_tables()
    return to_device(addresses, device) if tables is None else tables.of_addresses(addresses)


def _chunks(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Which elements each program works on: (programs, 3), the tensor, where to begin, the tensor's size."""
    tables = recorded_tables()
    if tables is not None:
        return tables.of_constants(_cut(sizes)).view(-1, 3)
    return _kept_chunks(sizes, device, current_stream(device))


@functools.lru_cache(maxsize=64)
def _kept_chunks(sizes: tuple[int, ...], device: torch.device, stream: int) -> Tensor:
    # for each stream, since another one could read the table before it has arrived
    return to_device(_cut(sizes), device).view(-1, 3)


def chunk_numbers(size: int) -> int:
    """How many numbers say which elements of a tensor of this size each program works on."""
    return 3 * -(-size // CHUNK)


def _cut(sizes: tuple[int, ...]) -> list[int]:
    return [n for c, size in enumerate(sizes) for start in range(0, size, CHUNK) for n in (c, start, size)]


def current_stream(device: torch.device) -> int:
    """What tells the current stream on a device from others; 0 where there are none."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


@functools.cache
def _can_compile(device: torch.device) -> bool:
    """Whether Triton is there, and a compiler for what launches its kernels. Where it is not, a warning says so."""
    if device.type != "cuda":
        return True
    try:
        from . import triton_kernels

        launch(triton_kernels.ones, 1, torch.zeros(1, device=device))
        return True
    except Exception as error:  # whatever is missing, the operations of torch do the same
        warnings.warn(
            f"Triton cannot compile for {device}, so gradients are combined by operations of torch, which takes more "
            f"launches and more memory traffic: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
