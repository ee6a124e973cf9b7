"""The batched engine where it pays: many losses on one trunk, on a device where launches are what costs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..linalg.host_access import is_captured, is_launch_bound
from ..linalg.rows import Row
from .batched import by_batched
from .graph import Graph

__all__ = ["AutoEngine"]

FEWEST = 3
"""Fewer losses gain less by one batched backward pass than its operations cost more."""

MOST_OWN = 0.25
"""Of the nodes of a whole graph, the share that a loss may have for itself. Of a trunk with four heads it is 0.05."""

MOST_PARAMETERS = 2**24
"""Beyond, an operation takes longer than its launch, and m times the intermediate gradients take memory."""


AT_ONCE = 32
"""Of the values of vectors, how many are differentiated at a time: m times the intermediate gradients of a whole batch
grow with its square."""


class AutoEngine:
    """What ``engine="auto"`` has chosen, and which losses have turned out to have no batched backward pass.

    Args:
        used: the engine of the last `backward`.
    """

    def __init__(self) -> None:
        self.used: str | None = None
        self._works: dict[tuple[str, ...], bool] = {}

    def batched_rows(
        self,
        values: dict[str, Tensor],
        graphs: Sequence[Graph],
        params: Sequence[Tensor],
        retain_graph: bool,
        scale: Tensor | None,
    ) -> list[Row] | None:
        """The rows by one batched backward pass; None where that would not pay, or an operation cannot be batched.

        The first pass of a set of losses retains their graph, so that one backward pass each is still possible.
        """
        names = tuple(values)
        works = self._works.get(names)
        vectors = _of_vectors(list(values.values())) and not is_captured(params[0])
        if works is False or not (vectors or _pays(list(values.values()), graphs, params)):
            return None
        losses = list(values.values())
        retain = [retain_graph or works is None] * len(losses)
        try:
            rows = list(by_batched(losses, params, retain, scale, AT_ONCE if vectors else None))
        except RuntimeError:
            if works:
                raise
            self._works[names] = False
            return None
        self._works[names] = True
        return rows


def _of_vectors(losses: Sequence[Tensor]) -> bool:
    """Whether most losses are values of vectors: they share their whole graph, and one backward pass each would cost
    that of the batch every time."""
    return len(losses) >= FEWEST and 2 * len({loss.grad_fn for loss in losses}) <= len(losses)


def _pays(losses: Sequence[Tensor], graphs: Sequence[Graph], params: Sequence[Tensor]) -> bool:
    if len(losses) < FEWEST or not is_launch_bound(params[0].device) or is_captured(params[0]):
        return False
    *others, whole = graphs
    own = sum(len(graph.nodes) for graph in others)
    return (
        all(graph.shared for graph in others)
        and own <= MOST_OWN * len(others) * len(whole.nodes)
        and sum(p.numel() for p in params) <= MOST_PARAMETERS
    )
