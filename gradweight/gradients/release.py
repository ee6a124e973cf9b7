"""Release: what a retained graph has saved is freed node by node, where only a part of it is needed again.

``retain_graph`` is for all of a backward pass. Of heads on a trunk that would keep all that belongs to one head until
its loss is gone, in a training loop until the next forward pass has made another.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

from torch import Tensor
from torch.autograd.graph import Node

from ..linalg.rows import Row
from .graph import Graph

__all__ = ["release_saved", "releasing"]


FEWEST = 2**12
"""Elements of a tensor that is worth being freed, which takes as long as a small operation."""


def releasing(rows: Iterable[Row], graphs: Sequence[Graph], params: Sequence[Tensor]) -> Iterator[Row]:
    """The rows; after the backward pass of each, the part of its graph that no later loss has is freed.

    Nothing is where a leaf belongs to others: a pass that does not retain its graph frees what lies on the way to the
    parameters only, and others may want to go the other ways.

    Args:
        rows: one backward pass for each that is taken; the graphs of those whose part is shared are retained.
        graphs: as `Graph.of_each` has them.
        params: the parameters.
    """
    ours = {id(p) for p in params}
    free = all(graph.leaves.keys() <= ours for graph in graphs)
    for row, graph in zip(rows, graphs, strict=True):
        if free and graph.shared:
            release_saved(graph.nodes)
        yield row


def release_saved(nodes: Iterable[Node]) -> None:
    """Free what these nodes have saved; to go through them again is then the error that it is in torch."""
    for node in nodes:
        for name in _names_of_saved(type(node)):
            found = getattr(node, name)
            for saved in found if type(found) is tuple else (found,):
                # nothing, or what hooks have moved elsewhere, which it is for them to free; a release of torch that
                # does not tell the two from a tensor keeps it as long as the losses
                tensor = getattr(saved, "data", None)
                if isinstance(tensor, Tensor) and tensor.numel() >= FEWEST and saved.unpack_hook is None:
                    saved.register_hooks(_nothing, _refuse)  # the first is called at once: its result is what is saved


@functools.cache
def _names_of_saved(kind: type) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))


def _nothing(tensor: Tensor) -> None:
    return None


def _refuse(nothing: Any) -> NoReturn:
    raise RuntimeError(
        "Trying to backward through the graph a second time: the part of it that belongs to one loss has been freed. "
        "Pass retain_graph=True to the first backward()"
    )
