"""Counting what tensors go through: arithmetic operations and large allocations, seen by a dispatch mode.

A count, unlike a time, is the same on every machine and in every run, so that tests can assert it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

# operations per element of the result, or of the first operand for reductions
PER_ELEMENT: dict[Any, int] = {
    aten.dot.default: 2,
    aten.vdot.default: 2,
    aten.mul.Tensor: 1,
    aten.mul.out: 1,
    aten.mul_.Tensor: 1,
    aten.add.Tensor: 1,
    aten.add_.Tensor: 1,
    aten.addcmul.default: 2,
    aten.addcmul_.default: 2,
}


class Counting(TorchDispatchMode):
    """Counts operations on tensors of at least ``size`` elements, and storages of at least that size that appear.

    Args:
        size: what counts as large, in elements.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.operations = 0
        self.allocations = 0
        self.unknown: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage.nbytes() >= self.size * tensor.element_size():
                self.allocations += 1
        elements = max((tensor.numel() for tensor in (*inputs, *outputs)), default=0)
        if elements >= self.size:
            if function in PER_ELEMENT:
                self.operations += PER_ELEMENT[function] * elements
            elif not function.is_view:
                self.unknown.add(str(function))
        return result


def count(function: Callable[[], object], size: int) -> Counting:
    """Run ``function`` once and return what was counted."""
    with Counting(size) as counting:
        function()
    return counting
