"""Counting what tensors go through, seen by a dispatch mode: operations, memory traffic, allocations, launches.

A count, unlike a time, is the same on every machine and in every run, so that tests can assert it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
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
    aten.addr.out: 3,  # of two vectors, one of them a single 1
    aten.copy_.default: 0,
    aten._to_copy.default: 0,
    aten.cat.default: 0,
    aten._foreach_copy_.default: 0,
    aten._foreach_mul.Tensor: 1,
    aten._foreach_mul_.Tensor: 1,
    aten._foreach_add_.List: 1,
}
# what lies in their first argument is not read
OVERWRITE = (aten.copy_.default, aten._foreach_copy_.default)
# a matrix product: 2 x rows x inner x columns, whatever of the result is needed
PRODUCTS = (aten.mm.default, aten.mv.default, aten.addmv.default, aten.addmm.default)

BLOCK = 2**14
"""Bytes that the modelled cache fetches at a time."""


# memory that is set aside, and nothing written to it
NO_LAUNCH = {aten.empty_like.default, aten.empty.memory_format, aten.new_empty.default}


class Counting(TorchDispatchMode):
    """Counts what is done to tensors of at least ``size`` elements, and how many operators are dispatched at all.

    Memory traffic is that of a cache which keeps what was used last: elements that are read and not in the cache, and
    elements that were written, once they leave it. What is written without having been read is not fetched.

    Args:
        size: what counts as large, in elements.
        cache: bytes of the modelled cache.
    """

    def __init__(self, size: int, cache: int = 2**25) -> None:
        super().__init__()
        self.size = size
        self.cache = cache
        self.operations = 0
        self.allocations = 0
        self.launches = 0
        self.unknown: set[str] = set()
        self._moved_bytes = 0
        self._element_size = 4
        self._cached: OrderedDict[int, bool] = OrderedDict()

    @property
    def moved(self) -> int:
        """Elements fetched and written back, what is still in the cache included, rounded up to whole blocks."""
        return (self._moved_bytes + BLOCK * sum(self._cached.values())) // self._element_size

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_lists = str(function).startswith("aten._foreach")
        # in place on a list: nothing is returned
        written = args[0] if on_lists and function._schema.is_mutable else result
        outputs = [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]
        known = {tensor.untyped_storage()._cdata for tensor in inputs}
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage.nbytes() >= self.size * tensor.element_size():
                self.allocations += 1
        if function.is_view:
            return result
        self.launches += 1
        large = [tensor for tensor in (*inputs, *outputs) if tensor.numel() >= self.size]
        if large:
            self._element_size = large[0].element_size()
            sizes = [tensor.numel() for tensor in large]
            elements = sum(t.numel() for t in args[0] if t.numel() >= self.size) if on_lists else max(sizes)
            self._count_operations(function, inputs, elements)
            self._count_traffic(function, args, kwargs or {}, outputs)
        return result

    def _count_operations(self, function: Any, inputs: list[Tensor], elements: int) -> None:
        if function in PER_ELEMENT:
            self.operations += PER_ELEMENT[function] * elements
        elif function in PRODUCTS:
            left, right = inputs[-2:]
            self.operations += 2 * left.numel() * (right.shape[1] if right.dim() > 1 else 1)
        elif not str(function).startswith("aten.empty"):
            self.unknown.add(str(function))

    def _count_traffic(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        if str(function).startswith("aten.empty"):  # allocates, touches nothing
            return
        written = {id(tensor): tensor for tensor in outputs}
        overwritten = {
            id(target) for target in tree_leaves((kwargs.get("out"), args[:1] if function in OVERWRITE else ()))
        }
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and id(tensor) not in overwritten:
                self._touch(tensor, write=written.pop(id(tensor), None) is not None)
        for tensor in written.values():
            self._touch(tensor, write=True, fetch=False)

    def _touch(self, tensor: Tensor, *, write: bool, fetch: bool = True) -> None:
        if tensor.numel() < self.size:
            return
        first = tensor.data_ptr()
        for block in range(first // BLOCK, -(-(first + tensor.numel() * tensor.element_size()) // BLOCK)):
            if block in self._cached:
                self._cached.move_to_end(block)
            elif fetch:
                self._moved_bytes += BLOCK
            self._cached[block] = self._cached.get(block, False) or write
            if len(self._cached) > self.cache // BLOCK:
                _, dirty = self._cached.popitem(last=False)
                self._moved_bytes += BLOCK * dirty


def count(function: Callable[[], object], size: int) -> Counting:
    """Run ``function`` once and return what was counted."""
    with Counting(size) as counting:
        function()
    return counting


class Launches(TorchDispatchMode):
    """Counts what is dispatched, name by name: what a device would be asked to launch. Views are not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not function.is_view and function not in NO_LAUNCH:
            self.names[str(function)] += 1
        return function(*args, **(kwargs or {}))


def launches(function: Callable[[], object]) -> int:
    """How many operations ``function`` dispatches, views apart."""
    with Launches() as counting:
        function()
    return counting.names.total()
