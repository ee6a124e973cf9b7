"""Sharding: parameters of which each process holds a part, as FSDP2 and tensor parallelism leave them (DTensor)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from ..linalg.layout import is_sharded, real_numbers

__all__ = ["first_coordinate", "mesh_group", "shards", "to_dtensor", "to_local"]


def to_local(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """The part that this process holds, without a copy; of any other tensor, itself.

    Args:
        tensor: a parameter or a gradient.
        like: the parameter that ``tensor`` must be sharded as.
    """
    if not is_sharded(tensor):
        return tensor
    d = cast(Any, tensor)
    if like is not None and d.placements != cast(Any, like).placements:
        d = d.redistribute(placements=cast(Any, like).placements)
    found: Tensor = d.detach().to_local()
    return found


def to_dtensor(part: Tensor, like: Tensor) -> Tensor:
    """The DTensor whose part on this process is ``part``, sharded as ``like`` is."""
    from torch.distributed.tensor import DTensor

    d = cast(Any, like)
    return DTensor.from_local(
        part, d.device_mesh, d.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def shards(tensor: Tensor) -> int:
    """Into how many different parts ``tensor`` is cut.

    Raises:
        ValueError: its parts are sums that were never completed.
    """
    d = cast(Any, tensor)
    if any(placement.is_partial() for placement in d.placements):
        raise ValueError(f"a parameter must be sharded or replicated; got one with placements {d.placements}")
    sizes = [d.device_mesh.size(i) for i, placement in enumerate(d.placements) if not placement.is_replicate()]
    return math.prod(sizes)


def first_coordinate(tensor: Tensor) -> int:
    """How many coordinates of ``tensor`` come before the part that this process holds, if that is a stretch of it."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    d = cast(Any, tensor)
    _, offset = compute_local_shape_and_global_offset(tensor.shape, d.device_mesh, d.placements)
    elements = sum(start * math.prod(tensor.shape[axis + 1 :]) for axis, start in enumerate(offset))
    return elements * real_numbers(tensor)


def mesh_group(tensors: Sequence[Tensor]) -> ProcessGroup:
    """The processes that hold parts of these parameters.

    Raises:
        ValueError: they lie on several meshes, or on one of several dimensions that leaves out some processes.
    """
    meshes = {cast(Any, tensor).device_mesh for tensor in tensors}
    mesh = next(iter(meshes))
    if len(meshes) == 1 and mesh.ndim == 1:
        return cast(ProcessGroup, mesh.get_group())
    if all(m.size() == distributed.get_world_size() for m in meshes) and distributed.group.WORLD is not None:
        return distributed.group.WORLD
    raise ValueError(
        f"parameters are sharded over the meshes {sorted(map(str, meshes))}: pass process_group= with all processes "
        "that hold a part of them"
    )
