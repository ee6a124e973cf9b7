"""Triton kernels: all inner products of m gradients, and their weighted sum, of any number of tensors in one launch.

The gradients are found by their addresses. Tensor number c of gradient i begins at ``addresses[c * M + i]``, 0 if that
loss does not reach the parameter; program p works on the up to CHUNK elements of tensor ``chunks[p, 0]`` from
``chunks[p, 1]`` on, of ``chunks[p, 2]`` in all. Every element is read from memory once by either kernel. Whoever
launches these is `kernels`.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["dots", "ones", "products", "weighted_sum"]


@triton.jit
def ones(out):
    """Write a 1: the least that has to be compiled and launched."""
    tl.store(out, 1.0)


@triton.jit
def _place(chunks):
    """The number of this program, the tensor that it works on, where it begins, and how many elements there are."""
    program = tl.program_id(0).to(tl.int64)
    here = chunks + 3 * program
    return program, tl.load(here), tl.load(here + 1), tl.load(here + 2)


@triton.jit
def _elements(address, at, size, TYPE: tl.constexpr):
    """Elements of a tensor; zeros beyond its end, and for a tensor that does not exist."""
    return tl.load(address.to(tl.pointer_type(TYPE)) + at, mask=at < tl.where(address == 0, 0, size), other=0.0)


# Scalars are read through these pointers: whether a table happens to be aligned is no reason to compile again, least of
# all while a CUDA graph is captured.
_launched = triton.jit(do_not_specialize_on_alignment=["addresses", "targets", "chunks", "out", "weights"])


@_launched
def dots(
    addresses,
    chunks,
    out,
    M: tl.constexpr,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Products of each gradient with itself and those after it, pair by pair: ``out[p, pair]``, for few gradients.

    Each thread has sums of its own for all pairs, which meet once, at the end of the chunk.
    """
    PAIRS: tl.constexpr = M * (M + 1) // 2
    program, column, start, size = _place(chunks)
    sums = ()
    for _ in tl.static_range(PAIRS):
        sums = sums + (tl.zeros((BLOCK,), WIDE),)
    for begin in range(0, CHUNK, BLOCK):
        at = start + begin + tl.arange(0, BLOCK)
        rows = ()
        for i in tl.static_range(M):
            rows = rows + (_elements(tl.load(addresses + column * M + i), at, size, TYPE).to(WIDE),)
        more = ()
        for i in tl.static_range(M):
            for j in tl.static_range(i, M):
                more = more + (sums[i * M - i * (i - 1) // 2 + j - i] + rows[i] * rows[j],)
        sums = more
    for pair in tl.static_range(PAIRS):
        tl.store(out + program * PAIRS + pair, tl.sum(sums[pair], 0))


@_launched
def products(
    addresses,
    chunks,
    out,
    M: tl.constexpr,
    PADDED: tl.constexpr,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What `dots` does, by products of matrices of PADDED rows, at least 16 and a power of two, for many gradients.

    In full precision, whatever is allowed for products of matrices elsewhere. The products of one block after the other
    are added up in float64: in float32 they would be one chain of CHUNK additions, which loses a digit and a half.
    """
    program, column, start, size = _place(chunks)
    i = tl.arange(0, PADDED)
    address = tl.load(addresses + column * M + i, mask=i < M, other=0)
    end = tl.where(address == 0, 0, size)
    row = address.to(tl.pointer_type(TYPE))
    total = tl.zeros((PADDED, PADDED), tl.float64)
    for begin in range(0, CHUNK, BLOCK):
        at = start + begin + tl.arange(0, BLOCK)
        tile = tl.load(row[:, None] + at[None, :], mask=at[None, :] < end[:, None], other=0.0).to(WIDE)
        total += tl.dot(tile, tl.trans(tile), input_precision="ieee", out_dtype=WIDE).to(tl.float64)
    first, second = i[:, None], i[None, :]
    pair = first * M - first * (first - 1) // 2 + second - first
    tl.store(out + program * (M * (M + 1) // 2) + pair, total, mask=(first <= second) & (second < M))


@_launched
def weighted_sum(
    addresses,
    targets,
    chunks,
    weights,
    M: tl.constexpr,
    TYPE: tl.constexpr,
    WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write ``sum_i weights[i] * gradient[i]``, summed in the precision of the weights and rounded once.

    The target of tensor c begins at ``targets[c]`` and may be one of the gradients.
    """
    _, column, start, size = _place(chunks)
    target = tl.load(targets + column).to(tl.pointer_type(TYPE))
    for begin in range(0, CHUNK, BLOCK):
        at = start + begin + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), WIDE)
        for i in tl.static_range(M):
            address = tl.load(addresses + column * M + i)
            # 0 * inf is NaN, and a gradient that does not exist must not be
            weight = tl.where(address == 0, 0.0, tl.load(weights + i))
            total += weight * _elements(address, at, size, TYPE).to(WIDE)
        tl.store(target + at, total.to(TYPE), mask=at < size)
