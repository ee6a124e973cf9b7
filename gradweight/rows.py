"""Rows: one loss's gradient as a list of tensors, one per parameter, `None` where the loss does not reach it.

What the step does with the rows of all losses: add up micro-batches, form the Gram matrix, combine with weights.
All of it reads the tensors where autograd left them; nothing here flattens or stacks k-sized data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .ownership import private

__all__ = [
    "Row",
    "accumulate",
    "added",
    "combine",
    "directions_by_coordinate",
    "gram",
    "in_place_targets",
    "is_dense",
    "kept_targets",
]

Row: TypeAlias = list[Tensor | None]

CHUNK = 2**18
"""Elements of a row that are multiplied at a time: 1 MiB of float32, so that the chunks of a few rows stay in
the cache between the products that need them, and memory is read once instead of m times."""

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def gram(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Inner products of the rows, ``G[i, j] = sum_p Re <g_ip, conj g_jp>``, symmetric: (m, m).

    The dtype is float64 if any gradient is double precision, else float32: it says how accurate the entries are.
    Products of half-precision gradients are formed in float32, chunk sums are added up in float64. A complex
    gradient counts as its real and imaginary parts. Gradients on several devices are reduced where they are, and
    the sums meet on the device of the first one. Nothing is read back by the host.

    Squares must fit float32: with single-precision gradients a norm beyond 1e19 gives inf (and so a direction of
    NaN, never a wrong one), and one below 1e-19 loses digits until, below 1e-22, it counts as zero.
    """
    m = len(rows)
    products: dict[torch.device, _Products] = {}
    double = False
    for tensors in zip(*rows, strict=True):
        one = next((t for t in tensors if t is not None), None)
        if one is None:
            continue
        double = double or one.dtype in (torch.float64, torch.complex128)
        if one.device not in products:
            products[one.device] = _Products(m)
        for pieces in _chunks(tensors):
            products[one.device].add(pieces)
    sums = [on_device.sums() for on_device in products.values()]
    total = sums[0]
    for other in sums[1:]:
        total = total + other.to(total.device, non_blocking=True)
    entries = iter(total.to(torch.float64 if double else torch.float32).unbind())
    upper = {(i, j): next(entries) for i in range(m) for j in range(i, m)}
    return torch.stack([upper[min(i, j), max(i, j)] for i in range(m) for j in range(m)]).view(m, m)


class _Products:
    """Inner products of aligned pieces of m rows on one device, taken while a few pieces are in the cache."""

    def __init__(self, m: int) -> None:
        self.pairs = [(i, j) for i in range(m) for j in range(i, m)]
        self.values: list[list[Tensor]] = [[] for _ in self.pairs]
        self.waiting: list[list[Tensor]] = [[] for _ in range(m)]
        self.elements = 0

    def add(self, pieces: Sequence[Tensor | None]) -> None:
        present = [piece for piece in pieces if piece is not None]
        if len(present) < len(pieces):
            zero = present[0].new_zeros(())
            for values, (i, j) in zip(self.values, self.pairs, strict=True):
                x, y = pieces[i], pieces[j]
                values.append(zero if x is None or y is None else torch.dot(x, y))
            return
        for row, piece in zip(self.waiting, present, strict=True):
            row.append(piece)
        self.elements += present[0].numel()
        if self.elements >= CHUNK:
            self.multiply()

    def multiply(self) -> None:
        for values, (i, j) in zip(self.values, self.pairs, strict=True):
            values.extend(map(torch.dot, self.waiting[i], self.waiting[j]))
        for row in self.waiting:
            row.clear()
        self.elements = 0

    def sums(self) -> Tensor:
        self.multiply()
        together = [value for values in self.values for value in values]
        return torch.stack(together).view(len(self.pairs), -1).sum(1, dtype=torch.float64)


def combine(rows: Sequence[Row], weights: Tensor, out: Sequence[Tensor | None]) -> None:
    """Write ``sum_i weights[i] * rows[i]`` into ``out``, parameter by parameter: (m,) weights, nothing returned.

    ``out[p]`` may be one of the tensors of ``rows`` (that of the first loss that reaches p), for combining in
    place, and is left alone where no loss reaches p. Half-precision gradients are summed in float32 and rounded once.
    """
    prepared: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}
    for target, *tensors in zip(out, *rows, strict=True):
        if target is None:
            continue
        wide = torch.float32 if target.dtype in _LOW_PRECISION else target.dtype
        key = (target.device, wide)
        if key not in prepared:
            prepared[key] = weights.to(*key, non_blocking=True).unbind()
        terms = [(w, t) for w, t in zip(prepared[key], tensors, strict=True) if t is not None]
        if wide != target.dtype:
            _combine_wide(terms, target)
            continue
        torch.mul(terms[0][1], terms[0][0], out=target)
        for weight, tensor in terms[1:]:
            target.addcmul_(tensor, weight)


def _combine_wide(terms: list[tuple[Tensor, Tensor]], target: Tensor) -> None:
    tensors = [target, *(tensor for _, tensor in terms)]
    if len({tensor.stride() for tensor in tensors}) == 1 and is_dense(target):
        pieces = _chunks(tensors, widen=False)
    else:  # flattening would copy the target, and what is written to a copy is lost
        pieces = iter([list(tensors)])
    for piece in pieces:
        parts = [w * _some(t).to(w.dtype) for (w, _), t in zip(terms, piece[1:], strict=True)]
        _some(piece[0]).copy_(torch.stack(parts).sum(0))


def directions_by_coordinate(
    rule: Callable[..., Tensor],
    name: str,
    rows: Sequence[Row],
    finite: Tensor,
    out: Sequence[Tensor | None],
    own: Sequence[Mapping[str, Any]],
) -> list[tuple[Tensor, Tensor]]:
    """Each target with ``rule(stacked gradients)``, (m, ...) -> (...), to be copied into it; NaN unless ``finite``.

    A gradient that does not exist counts as zeros. Nothing is written here, so that a rule that fails on the last
    parameter has changed none. For each parameter the rule is passed what is its ``own``, by keyword.

    Raises:
        ValueError: the rule, called ``name``, returned another shape than the parameter's.
    """
    directions: list[tuple[Tensor, Tensor]] = []
    for index, (target, *tensors) in enumerate(zip(out, *rows, strict=True)):
        if target is None or target.numel() == 0:
            continue
        stacked = torch.stack([torch.zeros_like(target) if t is None else t for t in tensors])
        direction = rule(stacked, **own[index])
        if direction.shape != target.shape:
            raise ValueError(
                f"{name} must return the direction of a parameter, shape {tuple(target.shape)}; "
                f"got shape {tuple(direction.shape)}"
            )
        directions.append((target, torch.where(finite.to(target.device), direction, torch.nan)))
    return directions


def accumulate(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The sums ``old[i][p] + new[i][p]``, formed in the tensors of ``new`` where nobody else can see them.

    ``old`` is never written to, so that whoever fails after this has lost nothing. Autograd may return one tensor
    for two parameters, or an expanded one: those are added out of place.
    """
    ours = private(new)
    result: list[Row] = []
    for old_row, new_row, free in zip(old, new, ours, strict=True):
        row: Row = []
        for a, b, writable in zip(old_row, new_row, free, strict=True):
            if a is None or b is None:
                row.append(b if a is None else a)
            else:
                row.append(b.add_(a) if writable and is_dense(b) else a + b)
        result.append(row)
    return result


def added(rows: Sequence[Row]) -> Row:
    """The sum of all rows, in new tensors where several reach a parameter."""
    return [functools.reduce(_plus, tensors) for tensors in zip(*rows, strict=True)]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def in_place_targets(rows: Sequence[Row], like: Sequence[Tensor]) -> list[Tensor | None]:
    """For each parameter a tensor to combine into: the first row's own where that is safe, else a new one.

    Safe is a tensor that nobody else holds, that shares its memory with no other gradient, and that has the strides
    of the parameter, which fused optimizers rely on without checking.
    """
    ours = private(rows)
    targets: list[Tensor | None] = []
    for index, parameter in enumerate(like):
        first = next((i for i, row in enumerate(rows) if row[index] is not None), None)
        if first is None:
            targets.append(None)
            continue
        tensor = _some(rows[first][index])
        if ours[first][index] and _fits(tensor, parameter):
            targets.append(tensor)
        else:
            targets.append(torch.empty_like(parameter, requires_grad=False))
    return targets


def kept_targets(rows: Sequence[Row], like: Sequence[Tensor], kept: dict[Tensor, Tensor]) -> list[Tensor | None]:
    """For each parameter that a loss reaches, its tensor in ``kept``, made once and then used again."""
    targets: list[Tensor | None] = []
    for parameter, *tensors in zip(like, *rows, strict=True):
        if all(t is None for t in tensors):
            targets.append(None)
            continue
        if parameter not in kept or not _fits(kept[parameter], parameter):
            kept[parameter] = torch.empty_like(parameter, requires_grad=False)
        targets.append(kept[parameter])
    return targets


def _chunks(tensors: Sequence[Tensor | None], widen: bool = True) -> Iterator[Sequence[Tensor | None]]:
    """Aligned 1-D pieces of tensors of one shape, real-valued and in at least float32 if ``widen``."""
    flats = _flatten(tensors)
    one = next(t for t in flats if t is not None)
    n, widen = one.numel(), widen and one.dtype in _LOW_PRECISION
    if n <= CHUNK and not widen:
        yield flats
        return
    for start in range(0, max(n, 1), CHUNK):
        pieces = [None if t is None else t[start : start + CHUNK] for t in flats]
        yield [None if t is None else t.to(torch.float32) for t in pieces] if widen else pieces


def _flatten(tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """1-D views in one common order: that of the storage if all agree on it, which copies nothing."""
    one = next(t for t in tensors if t is not None)
    if one.is_complex():
        tensors = [None if t is None else torch.view_as_real(t.resolve_conj()) for t in tensors]
        one = next(t for t in tensors if t is not None)
    if one.dim() == 1 or one.is_contiguous() or not is_dense(one):
        return [None if t is None else t.reshape(-1) for t in tensors]
    if any(t.stride() != one.stride() for t in tensors if t is not None):
        return [None if t is None else t.reshape(-1) for t in tensors]
    return [None if t is None else t.as_strided((t.numel(),), (1,)) for t in tensors]


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


def _fits(tensor: Tensor, parameter: Tensor) -> bool:
    return (
        tensor.shape == parameter.shape
        and tensor.dtype == parameter.dtype
        and tensor.device == parameter.device
        and is_dense(tensor)
        and (tensor.stride() == parameter.stride() or not is_dense(parameter))
    )


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
