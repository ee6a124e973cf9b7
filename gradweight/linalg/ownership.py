"""Ownership: which gradients have no other owner, so that they may be written to in place."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ..torch_private import storage, use_count

__all__ = ["exclusively_owned"]


def exclusively_owned(rows: Sequence[list[Tensor | None]]) -> list[list[bool]]:
    """Which gradients have no owner but their row: neither the tensor nor its storage is held elsewhere.

    Autograd returns whatever a backward returned: one tensor for two parameters, a tensor that a custom function
    saved, or that the user holds. `torch` asks the reference count before it makes such a tensor a ``.grad``.
    """
    holders = Counter(storage(t) for row in rows for t in row if t is not None)
    return [[_is_exclusively_owned(row, index, holders) for index in range(len(row))] for row in rows]


def _is_exclusively_owned(row: Sequence[Tensor | None], index: int, holders: Counter[int]) -> bool:
    # by row and index, because a name for the tensor here would be one more reference
    if row[index] is None:
        return False
    found = _ref_counts(row, index)
    return holders[found[0]] == 1 and all(n <= sole for n, sole in zip(found[1:], _SOLE_OWNER_COUNTS[1:], strict=True))


def _ref_counts(row: Sequence[Tensor | None], index: int) -> tuple[int, int, int, int, int]:
    """The storage of a tensor, and Python's and C++'s references to it and to the tensor that it is a view of."""
    tensor = row[index]
    assert tensor is not None
    here = storage(tensor), sys.getrefcount(tensor), use_count(tensor)
    base = tensor._base
    return (*here, 0, 0) if base is None else (*here, sys.getrefcount(base), use_count(base))


# What a tensor has that only its row holds; releases of torch differ in how Python and C++ share a tensor.
_SOLE_OWNER_COUNTS = _ref_counts([torch.ones(2, 2).t()], 0)
