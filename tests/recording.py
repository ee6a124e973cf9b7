"""A step recorded operation by operation and replayed in the same memory: what a CUDA graph does, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Recording"]

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
