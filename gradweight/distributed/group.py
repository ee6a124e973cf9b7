"""Group: which processes take a step together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from ..linalg.layout import is_sharded
from ..torch_private import group_named
from .communicator import Communicator
from .placement import Reduce
from .process_group import ProcessGroupCommunicator
from .sharding import mesh_group, shards

__all__ = ["Group", "check_group", "communicator_of", "stays"]


class Group:
    """A process group that survives pickling and deepcopy, by its name."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group

    def __reduce__(self) -> tuple[Any, ...]:
        return _group_named, (self.group.group_name,)

    def __repr__(self) -> str:
        return f"process group {self.group.group_name!r} of {distributed.get_world_size(self.group)}"


def _group_named(name: str) -> Group:
    return Group(group_named(name))


def check_group(process_group: ProcessGroup | bool | None, reduce: str) -> Group | bool | None:
    """The argument ``process_group`` as it is kept.

    Raises:
        TypeError: it is no process group, nor False or None.
        ValueError: ``reduce`` is no way of reducing.
    """
    if reduce not in ("all", "scatter"):
        raise ValueError(f"reduce must be 'all' or 'scatter'; got {reduce!r}")
    if process_group is None or process_group is False:
        return process_group
    if not (distributed.is_available() and isinstance(process_group, ProcessGroup)):
        raise TypeError(
            "process_group must be a torch.distributed process group, such as torch.distributed.group.WORLD after "
            f"init_process_group(), or False, or None; got {process_group!r}"
        )
    return Group(process_group)


def communicator_of(process_group: Group | bool | None, reduce: Reduce, params: Sequence[Tensor]) -> Communicator:
    """What the processes that take a step together communicate by.

    Raises:
        RuntimeError: there are several, and parameters that each holds as a whole, but it was not said which
            processes are to average their gradients.
        ValueError: ``process_group`` is False and parameters are sharded.
        TypeError: parameters are flattened by FSDP1.
    """
    if not _initialized():
        return Communicator(has_group=False)
    if any(getattr(p, "_fsdp_flattened", False) for p in params):
        raise TypeError(
            "FullyShardedDataParallel (FSDP1) has flattened these parameters, and gradients are not to be had one loss "
            "at a time: shard by fully_shard (FSDP2), or let gradweight.LossBalancer probe at a copy of the module's "
            "output, at=output.clone()"
        )
    sharded = [p for p in params if is_sharded(p)]
    if process_group is False:
        if any(shards(p) > 1 for p in sharded):
            raise ValueError(
                "process_group=False says that every process trains a model of its own; these parameters are sharded "
                "over several"
            )
        return Communicator(has_group=True)
    if isinstance(process_group, Group):
        group = process_group.group
    elif len(sharded) == len(params):
        group = mesh_group(sharded)
    elif distributed.get_world_size() > 1:
        raise RuntimeError(
            f"{distributed.get_world_size()} processes are in the default process group: pass "
            "process_group=torch.distributed.group.WORLD (or the group of data-parallel processes) to "
            "MultiObjectiveGradient to average each loss's gradient over them, or process_group=False if every "
            "process trains a model of its own; if the model is sharded by fully_shard, build the optimizer after that"
        )
    else:
        return Communicator(has_group=True)
    return (
        Communicator(has_group=True)
        if distributed.get_world_size(group) == 1 and not sharded
        else ProcessGroupCommunicator(group, reduce)
    )


def stays(communicator: Communicator) -> bool:
    """Whether nothing has happened that would make `communicator_of` answer otherwise."""
    return communicator.size > 1 or communicator.has_group == _initialized()


def _initialized() -> bool:
    return distributed.is_available() and distributed.is_initialized()
