"""Graph: what a loss depends on, found before anything is differentiated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from ..linalg.layout import any_sharded
from ..linalg.rows import Row

__all__ = [
    "Edge",
    "Graph",
    "check_nonempty",
    "check_reached",
    "edge_of",
    "other_leaves",
    "reentrant_message",
    "retain_graphs",
]

_REENTRANT_CHECKPOINT = "CheckpointFunctionBackward"


Edge: TypeAlias = tuple[Node, int]
"""A tensor as the graph knows it: the node that it comes from, and which of that node's results it is."""


def edge_of(tensor: Tensor) -> Edge:
    """The tensor as the graph knows it; it must not be a leaf."""
    assert tensor.grad_fn is not None
    return tensor.grad_fn, tensor.output_nr


@dataclass(frozen=True)
class Graph:
    """What a loss depends on: the nodes of its graph, and the ids of the leaves that it reaches.

    Args:
        nodes, leaves: as far as the walk went; the leaves by id.
        reentrant: whether a reentrant checkpoint is among the nodes.
        custom: whether a function written in Python is, whose backward may walk graphs of its own.
        shared: whether the walk stopped short at a node that it was told to stop at.
        met: the tensors that it was told to stop at, and did.
    """

    nodes: set[Node]
    leaves: dict[int, Tensor]
    reentrant: bool
    custom: bool = False
    shared: bool = False
    met: frozenset[Edge] = frozenset()

    @staticmethod
    def of_each(losses: Sequence[Tensor | GradientEdge]) -> list[Graph]:
        """The part of each loss's graph that no later loss has; the others share what is not in their own.

        Every node is visited once, however many losses there are. A graph that shares a node with a later one must
        outlive its backward.
        """
        graphs: list[Graph] = []
        later: set[Node] = set()
        for loss in reversed(losses):
            graphs.append(Graph.of(loss, later))
            later |= graphs[-1].nodes
        return graphs[::-1]

    @staticmethod
    def of(loss: Tensor | GradientEdge, stops: Collection[Node] = (), tensors: Collection[Edge] = ()) -> Graph:
        """Walk the graph behind ``loss``, up to the nodes in ``stops`` and to the ``tensors``.

        A node has several results where an operation has (``chunk``, ``unbind``, ``svd``): to stop at one tensor is not
        to stop at its node, which may be come to by way of another.
        """
        if isinstance(loss, Tensor) and loss.grad_fn is None:
            return Graph(set(), {id(loss): loss}, False)
        nodes: set[Node] = set()
        leaves: dict[int, Tensor] = {}
        met: set[Edge] = set()
        kinds: set[type] = set()
        shared = False
        pending: list[Edge] = [edge_of(loss) if isinstance(loss, Tensor) else loss[:2]]
        while pending:  # once per edge of the graph on every step: nothing here that is not needed
            edge = pending.pop()
            if tensors and edge in tensors:
                met.add(edge)
                continue
            node = edge[0]
            if node is None or node in nodes:
                continue
            if node in stops:
                shared = True
                continue
            # by type: a custom function's node also has whatever attributes its forward has set on it
            kind = type(node)
            if kind.__name__ == "AccumulateGrad":  # holds no buffers, so sharing it is harmless
                leaf: Tensor = node.variable  # type: ignore[attr-defined]
                leaves[id(leaf)] = leaf
                continue
            nodes.add(node)
            kinds.add(kind)
            pending.extend(node.next_functions)  # type: ignore[arg-type]
        reentrant = _REENTRANT_CHECKPOINT in {kind.__name__ for kind in kinds}
        custom = True in [issubclass(kind, BackwardCFunction) for kind in kinds]
        return Graph(nodes, leaves, reentrant, custom, shared, frozenset(met))


def retain_graphs(graphs: Sequence[Graph], retain_last: bool) -> list[bool]:
    """Which graphs must outlive their backward: those that share a node with a later loss."""
    retain: list[bool] = []
    later: set[Node] = set()
    for graph in reversed(graphs):
        retain.append(retain_last or not graph.nodes.isdisjoint(later))
        later |= graph.nodes
    return retain[::-1]


def other_leaves(graphs: Iterable[Graph], params: Iterable[Tensor]) -> list[Tensor]:
    """The leaves of these graphs that are none of the parameters."""
    ours = {id(p) for p in params}
    return list({key: leaf for graph in graphs for key, leaf in graph.leaves.items() if key not in ours}.values())


def check_reached(
    values: Mapping[str, Tensor | GradientEdge], graphs: Sequence[Graph], params: Sequence[Tensor], engine: str
) -> None:
    """Raise unless every loss reaches a parameter, in a graph that the engine sees all of."""
    ids = {id(p) for p in params}
    inner = {
        p.grad_fn for p in params if p.grad_fn is not None
    }  # a differentiable base may hold parameters that are no leaves
    reentrant = True in [graph.reentrant for graph in graphs]
    if reentrant and engine in ("autograd", "batched", "gram"):
        raise RuntimeError(reentrant_message(f"engine={engine!r}"))
    hidden = reentrant or True in [graph.custom for graph in graphs]
    for (name, loss), graph in zip(values.items(), graphs, strict=True):
        # the parameters inside a checkpoint, or a function like one, are not in the graph: the rows will tell
        if graph.reentrant or graph.custom or (graph.shared and hidden) or _reaches(graph, ids, inner):
            continue
        # FSDP2's graphs end in tensors that it has gathered from the parameters
        if not (any_sharded(params) or (graph.shared and _reaches(Graph.of(loss), ids, inner))):
            raise ValueError(_unreached_message(name))


def _reaches(graph: Graph, leaves: set[int], inner: set[Node]) -> bool:
    return not (graph.leaves.keys().isdisjoint(leaves) and graph.nodes.isdisjoint(inner))


def check_nonempty(values: Iterable[str], rows: Sequence[Row]) -> None:
    """Raise `ValueError` for a row in which no parameter has a gradient."""
    for name, row in zip(values, rows, strict=True):
        for t in row:
            if t is not None:
                break
        else:
            raise ValueError(_unreached_message(name))


def _unreached_message(name: str) -> str:
    return (
        f"the loss {name!r} reaches none of the parameters of the base optimizer, or none of the tensors that a "
        "LossBalancer probes: it needs to depend on at least one (was the wrong model's optimizer wrapped, or an input "
        "detached too early? An optimizer that steps copies of its own, as those of ZeRO and of CPU offload do, takes "
        "no wrapper: weigh the losses with gradweight.LossBalancer)"
    )


def reentrant_message(engine: str) -> str:
    """Why ``engine`` does not go through reentrant checkpoints, and what does."""
    return (
        f"{engine} cannot see through torch.utils.checkpoint with use_reentrant=True, which would give silent zeros: "
        "pass use_reentrant=False to checkpoint, or engine='hooks' to MultiObjectiveGradient"
    )
