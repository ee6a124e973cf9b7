"""What is used of torch beyond its public interface, and what is done with a release that no longer has it.

==========================================  ============================  =======================================
name                                        for                           without it
==========================================  ============================  =======================================
`torch._C._functorch`                       transforms of `torch.func`    taken to be at work: array code everywhere
`torch._utils._flatten_dense_tensors`       one copy of small tensors     `torch.cat`
`Tensor._use_count`                         who else owns a gradient      it is never formed in place
`UntypedStorage._cdata`                     which memory a tensor has     its address
`..._get_current_graph_task_keep_graph`     `join` under `retain_graph`   graphs are retained
`torch._C._current_graph_task_id`           what a checkpoint recomputes  not told from what is new
`..._execution_engine.queue_callback`       checks after a backward pass  there are none
`SelectBackward0._saved_index`              losses out of a stack         each walks the graphs of all
`Node._input_metadata`                      losses by sample              gradients of linear layers are formed
`torch._C._cuda_endAllocateToPool`          a CUDA graph that failed      its memory is not given back
`distributed_c10d._resolve_process_group`   unpickling a process group    an error that says so
==========================================  ============================  =======================================

Read where they are needed, because they are attributes that torch's own documentation speaks of or that have been there
since torch 1: `Tensor._version`, `Tensor._base`, `Optimizer._optimizer_step_pre_hooks` and its kin,
`grad_fn._raw_saved_self`, `GradScaler._per_optimizer_states`, ``torch._foreach_*``, `torch.utils._pytree`,
`torch._subclasses.fake_tensor`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

__all__ = [
    "at_the_end_of_the_backward_pass",
    "end_allocation",
    "flattened",
    "group_named",
    "in_backward_pass",
    "in_transform",
    "is_complex_result",
    "is_transformed",
    "retains_graph",
    "selected",
    "shape_of_result",
    "storage",
    "use_count",
]

MANY = 2**30
"""More owners than a tensor has."""


def is_transformed(tensor: Tensor) -> bool:
    """Whether ``tensor`` stands for others in a transform of `torch.func`."""
    try:
        return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
    except AttributeError:
        return True


def in_transform() -> bool:
    """Whether a transform of `torch.func` is at work."""
    try:
        return torch._C._functorch.peek_interpreter_stack() is not None
    except AttributeError:
        return True


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """All entries one after the other, 1-D, outside of compilers and transforms."""
    try:
        found: Tensor = torch._utils._flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        return found
    except AttributeError:
        return torch.cat([t.reshape(-1) for t in tensors])


def use_count(tensor: Tensor) -> int:
    """How many owners of ``tensor`` there are in C++."""
    try:
        return int(tensor._use_count())  # type: ignore[attr-defined]
    except AttributeError:
        return MANY


def storage(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others, for as long as it lives."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except AttributeError:
        return int(tensor.untyped_storage().data_ptr())


def retains_graph() -> bool:
    """Whether the backward pass that is under way retains its graph."""
    try:
        return bool(torch._C._autograd._get_current_graph_task_keep_graph())
    except AttributeError:
        return True


def selected(node: Node, result: int) -> int | None:
    """Which entry this result of an operation is, if it takes one out of a vector; negative from the end."""
    if node.name() == "UnbindBackward0":
        return result
    index: int | None = getattr(node, "_saved_index", None) if node.name() == "SelectBackward0" else None
    return index if index is None or index < 2**63 else index - 2**64  # as C++ has it, without a sign


def in_backward_pass() -> bool:
    """Whether this is called by a backward pass that is under way."""
    try:
        return bool(torch._C._current_graph_task_id() != -1)
    except AttributeError:
        return False


def shape_of_result(node: Node, result: int) -> tuple[int, ...] | None:
    """The shape of what this node of a graph computed, or of the leaf that it stands for."""
    try:
        return tuple(node._input_metadata[result].shape)
    except AttributeError:
        return None


def is_complex_result(node: Node, result: int) -> bool:
    """Whether what this node of a graph computed has complex entries, or may have."""
    try:
        return bool(node._input_metadata[result].dtype.is_complex)
    except AttributeError:
        return True


def at_the_end_of_the_backward_pass(function: Callable[[], None]) -> None:
    """Call ``function`` when all else of the backward pass that is under way is done."""
    with suppress(AttributeError):
        torch.autograd.Variable._execution_engine.queue_callback(function)


def end_allocation(device: int, pool: tuple[int, int]) -> None:
    """Have the allocator leave the pool of a CUDA graph, if it is in it."""
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(device, pool)


def group_named(name: str) -> Any:
    """The process group of that name.

    Raises:
        RuntimeError: torch has no such group, or no way to look for it.
    """
    from torch.distributed import distributed_c10d

    try:
        return distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined, arg-type]
    except AttributeError as error:
        raise RuntimeError(
            f"torch {torch.__version__} offers no way to find the process group {name!r} by its name: build the "
            "optimizer on every process instead of sending it there"
        ) from error
