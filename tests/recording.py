"""What a device without a device would say: what is recorded and replayed, and what would have to wait.

`Recording` replays a step operation by operation in the same memory, as a CUDA graph does; `NothingFromTheHost` watches
one on the "meta" device, whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["NothingFromTheHost", "Recording"]

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default}


class Recording(TorchDispatchMode):
    """Records the operations inside; what the host decides meanwhile is decided for every replay.

    Raises:
        RuntimeError: inside, if the host reads a value, for which it would have to wait.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            raise RuntimeError(f"{func} reads a value")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        """Do the same again, every operation reading and writing the tensors that it did then."""
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, out in self.calls:
                again = func(*args, **kwargs)
                for then, now in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if (
                        isinstance(then, Tensor)
                        and then.untyped_storage().data_ptr() != now.untyped_storage().data_ptr()
                    ):
                        then.copy_(now)


def tensors(value: object) -> Iterator[Tensor]:
    """Those in nested tuples, lists and dicts; `tree_leaves` knows more containers and takes five times as long."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from tensors(entry)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


class NothingFromTheHost(TorchDispatchMode):
    """Refuses tensors that lie on the CPU, as everything made from Python data does before it is copied elsewhere.

    And systems of equations in batches that torch would not leave to cuBLAS: see `gradweight.rules._solvers.linear`.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tensors((args, kwargs, result)):
            assert tensor.device.type == "meta", f"{func} on {tensor.device}"
        if func is torch.ops.aten._linalg_solve_ex.default:
            systems, n = args[0].shape[:-2].numel(), args[0].shape[-1]
            assert systems >= 3, f"{systems} systems by cuSOLVER"
            assert n <= 16 or systems <= 16, f"{systems} systems of {n} unknowns by MAGMA"
        return result
