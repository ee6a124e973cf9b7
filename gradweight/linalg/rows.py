"""Rows: one loss's gradient as a list of tensors, one per parameter, `None` where the loss does not reach it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from .foreach import foreach_add, foreach_add_
from .layout import is_dense
from .ownership import exclusively_owned

__all__ = ["Row", "accumulate", "added"]

Row: TypeAlias = list[Tensor | None]


def accumulate(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The sums ``old[i][p] + new[i][p]``, formed in place in those tensors of ``new`` that have no other owner.

    ``old`` is never written to, so that an error after this loses nothing. Autograd may return one tensor
    for two parameters, or an expanded one: those are added out of place. So are now and then those of the last loss on
    a GPU, which autograd's device thread may still hold for an instant.
    """
    ours = exclusively_owned(new)
    result: list[Row] = []
    into: list[Tensor] = []
    what: list[Tensor] = []
    apart: list[tuple[Row, int, Tensor, Tensor]] = []
    for old_row, new_row, free in zip(old, new, ours, strict=True):
        row: Row = []
        for a, b, writable in zip(old_row, new_row, free, strict=True):
            if a is None or b is None:
                row.append(b if a is None else a)
                continue
            if writable and is_dense(b):
                into.append(b)
                what.append(a)
            else:
                apart.append((row, len(row), a, b))
            row.append(b)
        result.append(row)
    foreach_add_(into, what)
    sums = foreach_add([b for *_, b in apart], [a for _, _, a, _ in apart])
    for (row, index, _, _), total in zip(apart, sums, strict=True):
        row[index] = total
    return result


def added(rows: Sequence[Row]) -> Row:
    """The sum of all rows, in new tensors where several reach a parameter."""
    return [functools.reduce(_plus, tensors) for tensors in zip(*rows, strict=True)]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
