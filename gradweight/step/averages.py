"""Averages: the gradients of each loss, averaged over the steps, for a rule that is shown these in their place.

One tensor for each loss and parameter, in the base optimizer's state of that parameter: so they are saved, loaded,
moved and sharded with it. A `backward` proposes new ones, the step keeps them: what is not stepped along (a scaler's
overflow, an error) leaves them as they were.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..contract.rule_check import check_state
from ..distributed.communicator import Communicator
from ..gradients.accumulation import AccumulatedGradients
from ..linalg.layout import fits
from ..linalg.ownership import exclusively_owned
from ..linalg.rows import Row
from ..linalg.weighted_sum import weighted_sum
from ..rule import AveragingRule, State, check_weights
from .proposed_averages import ProposedAverages, has_average, kept_averages
from .state_names import average_of, for_losses, state_of, title

__all__ = ["Averager"]

SIGNALS = frozenset({"losses", "due", "norms"})
"""What ``average`` may declare."""


class Averager:
    """A rule's averages at work.

    Args:
        rule: that asks for them.

    Raises:
        TypeError: ``average`` declares something that it is not given.
    """

    def __init__(self, rule: AveragingRule) -> None:
        self.rule = rule
        self.kind = title(rule)
        assert rule.average is not None
        self.average: Callable[..., tuple[Tensor, Tensor, State]] = rule.average
        declared = {p.name for p in inspect.signature(self.average).parameters.values() if p.kind is p.KEYWORD_ONLY}
        if not declared <= SIGNALS:
            raise TypeError(
                f"average() of {type(rule).__name__} may have the keyword-only parameters {sorted(SIGNALS)}; "
                f"it has {sorted(declared)}"
            )
        self.declared = declared
        extrapolate = getattr(rule, "extrapolate", None)
        self.extrapolate: Callable[[State], Tensor] | None = extrapolate if callable(extrapolate) else None

    def __call__(
        self,
        given: AccumulatedGradients,
        due: Sequence[bool],
        blocks: Sequence[str | None] | None,
        kept: tuple[Mapping[Any, Any], State],
        communicator: Communicator,
        *,
        in_place: bool,
    ) -> tuple[AccumulatedGradients, ProposedAverages, State]:
        """The averages in place of the gradients, unscaled; how to keep them; the entries of the rule's state.

        Args:
            given: the gradients of all losses.
            due: which losses have one.
            blocks: the block of each parameter, or None for a single one; those of None are left alone, and have no
                averages.
            kept: the base optimizer's state, where the averages lie, and what the rule remembers.
            communicator: to the processes that take the step together.
            in_place: whether the gradients are not needed again.

        Raises:
            RuntimeError: the rule's state is there, and none of its averages.
        """
        state, saved = kept
        keys = [average_of(self.kind, given.names, name) for name in given.names]
        before = [communicator.local_parts(kept_averages(state, key, given.params)) for key in keys]
        like: list[Tensor] = communicator.local_parts(given.params)  # type: ignore[assignment]
        parts = _parts(given, blocks)
        norms = self._norms(given, parts, communicator) if "norms" in self.declared else {}
        changed: State = {}
        factors: dict[str | None, _Factors | None] = {None: None}
        for block in parts:
            if block is None:
                continue
            key = for_losses(state_of(self.kind), given.names, f" in {block}" if block else "")
            if key in saved and not (
                any(row[p] is not None for row in before for p in parts[block]) or has_average(state, keys)
            ):
                raise RuntimeError(_NOT_LOADED.format(kind=self.kind, names=list(given.names)))
            factors[block], changed[key] = self._factors(given, due, saved.get(key), norms.get(block), like)
        free = exclusively_owned(given.rows) if in_place else None
        rows = [list(row) for row in given.rows]
        averages: list[Row] = [[None] * len(like) for _ in keys]
        for block, places in parts.items():
            keep_and_scale = factors[block]
            for i, row in enumerate(given.rows):
                if keep_and_scale is None:
                    continue
                if not due[i]:
                    new: Row = [before[i][p] for p in places]
                else:
                    new = [_target(row, p, before[i][p], like[p], free is not None and free[i][p]) for p in places]
                    weights = torch.stack([keep_and_scale[1][i], keep_and_scale[0][i]])
                    weighted_sum([[row[p] for p in places], [before[i][p] for p in places]], weights, new)
                for p, average in zip(places, new, strict=True):
                    rows[i][p] = averages[i][p] = average
        if given.scale is not None and None in parts:
            _unscale(rows, parts[None], given)
        proposed = [communicator.all_gather_direction(row, given.params) for row in averages]
        _, losses = given.unscaled(given.losses)
        shown = replace(given, rows=rows, losses=losses, scale=None)
        return shown, ProposedAverages(keys, given.params, proposed), changed

    def extrapolated(
        self,
        given: AccumulatedGradients,
        out: Sequence[Tensor | None],
        blocks: Sequence[str | None] | None,
        kept: tuple[Mapping[Any, Any], State],
        communicator: Communicator,
    ) -> tuple[str, Row] | None:
        """Go on from the direction in ``out``, if the rule says how far: what is to be kept of it, and its key.

        Args:
            given: the averages.
            out: the direction, which is written to.
            blocks: as they were combined.
            kept: the base optimizer's state, and what the rule is to remember.
            communicator: to the processes that take the step together.
        """
        if self.extrapolate is None:
            return None
        state, remembered = kept
        key = for_losses(f"direction by {self.kind}", given.names)
        before = communicator.local_parts(kept_averages(state, key, given.params))
        direction: Row = [None] * len(out)
        for block, places in _parts(given, blocks).items():
            if block is None:
                continue
            for p in places:
                target = out[p]
                direction[p] = None if target is None else target.clone()
            here = for_losses(state_of(self.kind), given.names, f" in {block}" if block else "")
            ahead = self.extrapolate(remembered[here])
            weights = torch.stack([1 + ahead, -ahead])
            # a direction that there was none of before counts as zero, as in Adam's first moment
            weighted_sum(
                [[direction[p] for p in places], [before[p] for p in places]], weights, [out[p] for p in places]
            )
        return key, communicator.all_gather_direction(direction, given.params)

    def _norms(
        self, given: AccumulatedGradients, parts: Mapping[str | None, list[int]], communicator: Communicator
    ) -> dict[str | None, Tensor]:
        some = [([[row[p] for p in places] for row in given.rows], places) for places in parts.values()]
        grams = (given.unscaled(gram)[0] for gram in communicator.sums(given.params).grams(some))
        return {block: gram.diagonal().clamp(min=0).sqrt() for block, gram in zip(parts, grams, strict=True)}

    def _factors(
        self,
        given: AccumulatedGradients,
        due: Sequence[bool],
        state: State | None,
        norms: Tensor | None,
        like: Sequence[Tensor],
    ) -> tuple[_Factors, State]:
        """How much of each average is kept and of each gradient, as it is, is added; and the rule's next state."""
        name, m = type(self.rule).__name__, len(given.names)
        double = any(t.dtype in (torch.float64, torch.complex128) for t in like)
        matrix = torch.eye(m, dtype=torch.float64 if double else torch.float32, device=like[0].device)
        # a checkpoint may have been read to another device
        now = self.rule.init(matrix) if state is None else {n: v.to(matrix.device) for n, v in state.items()}
        flags = torch.ones_like(matrix[0])
        for i, is_due in enumerate(due):
            if not is_due:
                flags[i] = 0
        signals = {"losses": given.unscaled(matrix)[1], "due": flags, "norms": norms}
        answer = self.average(now, **{name: signals[name] for name in self.declared})
        if not (isinstance(answer, tuple) and len(answer) == 3):
            raise TypeError(f"average() of {name} must return (keep, scale, state); got {type(answer).__name__}")
        keep, scale, after = answer
        check_weights(keep, f"average() of {name}", matrix)
        check_weights(scale, f"average() of {name}", matrix)
        check_state(after, name, "average()")
        return (keep, scale if given.scale is None else scale / given.divisor(scale)), after


_Factors: TypeAlias = tuple[Tensor, Tensor]

_NOT_LOADED = (
    "the state of {kind} for the losses {names} is there, and the averages of their gradients are not: a checkpoint "
    "without them was loaded. torch.distributed.checkpoint.load fills what the optimizer has already: take one step "
    "with these losses, of any batch, before get_optimizer_state_dict()"
)


def _parts(given: AccumulatedGradients, blocks: Sequence[str | None] | None) -> dict[str | None, list[int]]:
    """The parameters of each block; without blocks all in one, called ""."""
    parts: dict[str | None, list[int]] = {}
    for p in range(len(given.params)):
        parts.setdefault("" if blocks is None else blocks[p], []).append(p)
    return parts


def _target(row: Row, p: int, before: Tensor | None, like: Tensor, free: bool) -> Tensor | None:
    """Where a new average is written: the gradient itself if nobody else has it, else a new tensor."""
    if row[p] is None and before is None:
        return None
    gradient = row[p]
    if free and gradient is not None and fits(gradient, like):
        return gradient
    return torch.empty_like(like, requires_grad=False)


def _unscale(rows: list[Row], places: Sequence[int], given: AccumulatedGradients) -> None:
    """Divide what is left alone by the loss scale, as the averages are."""
    for row in rows:
        for p in places:
            tensor = row[p]
            if tensor is not None:
                row[p] = tensor / given.divisor(given.losses).to(tensor.device)
