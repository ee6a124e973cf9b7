"""One process: nothing to exchange. Method by method the counterpart of `gradweight.distributed.processes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ..gradients.accumulation import Accumulated
from ..gradients.results import Gradients
from ..linalg.buffers import in_place_buffers, kept_buffers
from ..linalg.rows import Row
from .sums import OfWholes, Sums

__all__ = ["Compute", "Exchanging", "OneProcess"]

Compute = Callable[[Any, Callable[[str, Row], Row] | None], Gradients]
"""The gradients of some losses on this process; each row is handed on as it comes, if there is somebody to take it."""

T = TypeVar("T")


class Exchanging(Protocol):
    """What a step asks of the processes that take it together."""

    size: int
    grouped: bool

    def together(self, function: Callable[[], T], describe: Callable[[T], str]) -> T:
        """What ``function`` returns; if it fails on one process, all of them raise."""

    def check_micro_batch(self, before: list[Tensor], now: list[Tensor]) -> None:
        """Raise `ValueError` if rows over these parameters cannot be added up."""

    def gradients(
        self, losses: Any, params: list[Tensor], earlier: Sequence[Row], call: Callable[[], str], compute: Compute
    ) -> Gradients:
        """The gradients of the losses, averaged over the processes."""

    def local_gradients(self, losses: Any, params: list[Tensor], compute: Compute) -> Gradients:
        """The gradients of this process; nothing is exchanged."""

    def average(self, accumulated: Accumulated) -> Accumulated:
        """Losses and signals averaged over the processes."""

    def sums(self, params: list[Tensor]) -> Sums:
        """How sums over all entries of an averaged row are formed."""

    def sums_of_samples(self, features: list[Tensor]) -> Sums:
        """How sums over the samples of all processes are formed, from gradients at activations."""

    def targets(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """Where to write the direction; None where no loss reaches the parameter."""

    def gathered(self, targets: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The direction as ``.grad`` needs it."""


class OneProcess:
    """The case that all that there is to a step is here.

    Args:
        grouped: whether this was found out when there was a process group, so that there may be no other answer.
    """

    size = 1

    def __init__(self, grouped: bool) -> None:
        self.grouped = grouped
        self.kept: dict[Tensor, Tensor] = {}

    def together(self, function: Callable[[], T], describe: Callable[[T], str]) -> T:
        """What ``function`` returns."""
        return function()

    def check_micro_batch(self, before: list[Tensor], now: list[Tensor]) -> None:
        """Whatever was frozen or thawed: rows are aligned by parameter."""

    def gradients(
        self, losses: Any, params: list[Tensor], earlier: Sequence[Row], call: Callable[[], str], compute: Compute
    ) -> Gradients:
        """What ``compute`` returns."""
        return compute(losses, None)

    def local_gradients(self, losses: Any, params: list[Tensor], compute: Compute) -> Gradients:
        """What ``compute`` returns."""
        return compute(losses, None)

    def average(self, accumulated: Accumulated) -> Accumulated:
        """``accumulated`` itself."""
        return accumulated

    def sums(self, params: list[Tensor]) -> Sums:
        """Plain ones."""
        return OfWholes(params)

    def sums_of_samples(self, features: list[Tensor]) -> Sums:
        """Plain ones."""
        return OfWholes(features)

    def targets(self, rows: Sequence[Row], params: list[Tensor], in_place: bool) -> list[Tensor | None]:
        """The first row's own tensors, or kept ones."""
        return in_place_buffers(rows, params) if in_place else kept_buffers(rows, params, self.kept)

    def gathered(self, targets: Sequence[Tensor | None], params: list[Tensor]) -> list[Tensor | None]:
        """The targets themselves."""
        return list(targets)
