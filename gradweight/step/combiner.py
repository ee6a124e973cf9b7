"""Combiner: from accumulated rows to the direction, by one rule, over all parameters at once or block by block."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..combination import Combination
from ..contract.rule_check import check_state
from ..distributed.sums import Part, RowSums
from ..gradients.accumulation import AccumulatedGradients
from ..linalg.host_access import call_with_numpy, is_host_readable
from ..linalg.rows import Row
from ..linalg.weighted_sum import weighted_sum
from ..rule import CoordinateRule, Rule, Signals, State, StatefulRule, check_weights, faster_on_numpy_from
from .combiner_input import CombinerInput
from .coordinates import directions_by_coordinate
from .finite import all_finite, or_nan
from .state_names import for_losses, state_of, title

__all__ = ["Combiner", "write_row"]

Directions: TypeAlias = list[tuple[Tensor, Tensor]]


class Combiner:
    """A rule at work: it is shown Gram matrix and signals, and its weights are applied to the rows.

    Everything is passed and returned. What the rule remembers from step to step is read from ``saved`` and the
    entries that change are returned, for the caller to keep once the step is taken.

    Args:
        rule: how to weight the losses.

    Raises:
        TypeError: ``rule`` is not a rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.signals = Signals.of(rule)
        # without the addresses that some reprs have, so that processes can compare it
        self.name = re.sub(r" at 0x[0-9a-f]+", "", repr(rule))
        # a protocol's isinstance looks at every attribute, too slow for every step
        self._coordinate: CoordinateRule | None = rule if isinstance(rule, CoordinateRule) else None
        self.needs_gradients = self._coordinate is not None or getattr(rule, "needs_gradients", True)
        self._stateful: StatefulRule | None = rule if isinstance(rule, StatefulRule) else None
        self._state = state_of(title(rule))
        self.reads_entries = self._coordinate is not None or self.signals.statistics
        self._faster_on_numpy_from = faster_on_numpy_from(rule)

    def __call__(self, given: CombinerInput) -> tuple[Combination, State]:
        """Write the direction to ``given.out``.

        Raises:
            TypeError, ValueError: what the rule raises, or a result of a wrong type or shape; nothing is written then.
        """
        # backward() inside an autocast region must not round the rule's matrices to half precision
        with _no_autocast(_device_of(given.out).type):
            return self._whole(given) if given.blocks is None else self._by_block(given, given.blocks)

    def weights_by_losses(self, accumulated: AccumulatedGradients, saved: State) -> tuple[Tensor, State]:
        """The weights of a rule that needs no gradients, and the entries of its state that change.

        The rule is shown the identity for a Gram matrix. All weights are NaN if a loss is not finite, which need not
        show in the gradient of a weighted sum.
        """
        like = accumulated.losses
        with _no_autocast(like.device.type):
            matrix = torch.eye(len(like), dtype=like.dtype, device=like.device)
            _, losses = accumulated.unscaled(matrix)
            weights, _, changed = self._weights(matrix, losses, {}, accumulated, saved, "")
            return torch.where(torch.isfinite(losses).all(), weights, torch.nan), changed

    def weights_by_gram(
        self, accumulated: AccumulatedGradients, saved: State, sums: RowSums, gram: Tensor | None = None
    ) -> tuple[Combination, State]:
        """The weights for whoever applies them, and the entries of the rule's state that change; nothing is written.

        ``gram`` is given where there are no rows to form it from.
        """
        with _no_autocast(accumulated.losses.device.type):
            part = accumulated.rows, range(len(accumulated.params))
            combination, _, _, changed = self._decide(accumulated, part, saved, sums, gram)
            return combination, changed

    def step_number(self, saved: State, device: torch.device) -> State:
        """What changes on a step that takes weights found before, without asking the rule: the number of the step."""
        return {"step": _steps(saved, device) + 1} if "step" in self.signals.known else {}

    def write_weighted_row(
        self, accumulated: AccumulatedGradients, weights: Tensor, out: Sequence[Tensor | None], sums: RowSums
    ) -> Combination:
        """Write the direction of a step whose one row is the gradient of the weighted sum of all losses."""
        [matrix] = sums.grams([(accumulated.rows, range(len(out)))])
        squared, losses = accumulated.unscaled(matrix)
        # weights of NaN need not reach every entry: a ReLU that is off gives zeros
        finite = torch.isfinite(squared[0]) & torch.isfinite(weights).all().to(squared.device)
        write_row(accumulated.rows, finite, out)
        unknown = torch.full_like(squared, torch.nan).expand(len(weights), len(weights))
        return Combination(accumulated.names, losses, unknown, torch.where(finite, weights.to(squared), torch.nan))

    def _whole(self, given: CombinerInput) -> tuple[Combination, State]:
        accumulated, saved, out, sums = given.accumulated, given.saved, given.out, given.sums
        part = accumulated.rows, range(len(out))
        combination, signals, finite, changed = self._decide(accumulated, part, saved, sums)
        directions = self._by_coordinate(part, signals, finite, out, sums, self._reaches(part, sums))
        _write(accumulated.rows, combination.weights, directions, out)
        return combination, changed

    def _decide(
        self,
        accumulated: AccumulatedGradients,
        part: Part,
        saved: State,
        sums: RowSums,
        gram: Tensor | None = None,
    ) -> tuple[Combination, dict[str, Any], Tensor | None, State]:
        """What the rule decides, the signals that it was given, whether all is finite, and the state that changes."""
        matrix, losses = accumulated.unscaled(sums.grams([part])[0] if gram is None else gram)
        statistics = self._statistics(accumulated, part, matrix, sums)
        weights, signals, changed = self._weights(matrix, losses, statistics, accumulated, saved, "")
        finite = all_finite(matrix) if self._coordinate is not None else all_finite(matrix, weights)
        return Combination(accumulated.names, losses, matrix, or_nan(weights, finite)), signals, finite, changed

    def _by_block(self, given: CombinerInput, blocks: Sequence[str | None]) -> tuple[Combination, State]:
        accumulated, saved, out, sums = given.accumulated, given.saved, given.out, given.sums
        members: dict[str | None, list[int]] = {}
        for index, (block, target) in enumerate(zip(blocks, out, strict=True)):
            if target is not None:
                members.setdefault(block, []).append(index)
        rows = {b: [[row[i] for i in indices] for row in accumulated.rows] for b, indices in members.items()}
        parts = {block: (rows[block], members[block]) for block in members}
        # every collective before the first rule is asked: one that raises here must leave no other process waiting
        found = sums.grams(list(parts.values()))
        grams = {block: accumulated.unscaled(matrix) for block, matrix in zip(members, found, strict=True)}
        total = functools.reduce(torch.add, (matrix.to(_device_of(out)) for matrix, _ in grams.values()))

        named = [block for block in parts if block is not None]
        statistics = {block: self._statistics(accumulated, parts[block], grams[block][0], sums) for block in named}
        reaches = {block: self._reaches(parts[block], sums) for block in named}

        changed: State = {}
        answers: dict[str | None, tuple[Tensor, dict[str, Any]]] = {}
        decided: dict[str | None, tuple[Tensor, Directions | None]] = {}
        combinations: dict[str, Combination] = {}
        for block, (matrix, losses) in grams.items():
            if block is None:
                answers[block] = torch.ones_like(matrix[0]), {}
                continue
            weights, signals, some = self._weights(
                matrix, losses, statistics[block], accumulated, saved, f" in {block}"
            )
            changed |= some
            answers[block] = weights, signals
        finite = (
            all_finite(total) if self._coordinate is not None else all_finite(total, *(w for w, _ in answers.values()))
        )
        for block, (weights, signals) in answers.items():
            weights = or_nan(weights, finite)
            if block is None:
                decided[block] = weights, None
                continue
            matrix, losses = grams[block]
            some_out = [out[i] for i in members[block]]
            decided[block] = weights, self._by_coordinate(parts[block], signals, finite, some_out, sums, reaches[block])
            combinations[block] = Combination(accumulated.names, losses, matrix, weights)
        # every rule has answered: now nothing can fail that would leave some blocks written and others not
        for block, (weights, directions) in decided.items():
            _write(rows[block], weights, directions, [out[i] for i in members[block]])
        if len(combinations) == 1:  # then there are weights: what lies outside of the block has been left alone
            return dataclasses.replace(*combinations.values(), blocks=combinations), changed
        _, losses = next(iter(grams.values()))
        whole = Combination(accumulated.names, losses, total, torch.full_like(total[0], torch.nan), combinations)
        return whole, changed

    def _weights(
        self,
        matrix: Tensor,
        losses: Tensor,
        statistics: dict[str, Tensor],
        accumulated: AccumulatedGradients,
        saved: State,
        where: str,
    ) -> tuple[Tensor, dict[str, Any], State]:
        """The rule's weights, the signals that it was given, and the entries of its state that change."""
        signals: dict[str, Any] = {name: value.to(matrix) for name, value in accumulated.signals.items()} | statistics
        changed: State = {}
        if "step" in self.signals.known:
            signals["step"] = _steps(saved, matrix.device)
            changed["step"] = signals["step"] + 1
        given = self.signals.select({"names": accumulated.names, "losses": losses, **signals})
        version = matrix._version
        if self._coordinate is not None:
            return torch.full_like(matrix[0], torch.nan), given, changed
        if self._stateful is not None:
            # one state for each set of losses: a penalty that is due now and then must not reset the other steps'
            key = for_losses(self._state, accumulated.names, where)
            # a checkpoint may have been read to another device
            state = {n: v.to(matrix.device) for n, v in saved[key].items()} if key in saved else None
            state = self._stateful.init(matrix) if state is None else state
            returned = self._call(self._stateful.update, matrix, state, **given)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                raise TypeError(f"{self.signals.rule} must return (weights, state); got {type(returned).__name__}")
            weights, changed[key] = returned
            check_state(changed[key], self.signals.rule, "update()")
        else:
            weights = self._call(self.rule, matrix, **given)  # type: ignore[arg-type]
        check_weights(weights, self.signals.rule, matrix)
        if matrix._version != version:
            raise RuntimeError(f"{self.signals.rule} must not change the Gram matrix that it is shown: clone it first")
        return weights.detach().to(matrix), given, changed

    def _statistics(
        self, accumulated: AccumulatedGradients, part: Part, matrix: Tensor, sums: RowSums
    ) -> dict[str, Tensor]:
        return accumulated.statistics(sums.statistics(part), matrix) if self.signals.statistics else {}

    def _reaches(self, part: Part, sums: RowSums) -> Sequence[Tensor | None]:
        known = self._coordinate is not None and "reaches" in self.signals.known
        return sums.reaches(part) if known else [None] * len(part[1])

    def _call(self, function: Callable[..., Any], matrix: Tensor, *args: Any, **given: Any) -> Any:
        if len(matrix) >= self._faster_on_numpy_from and is_host_readable(matrix):
            return call_with_numpy(function, matrix, *args, **given)
        return function(matrix, *args, **given)

    def _by_coordinate(
        self,
        part: Part,
        given: dict[str, Any],
        finite: Tensor | None,
        out: Sequence[Tensor | None],
        sums: RowSums,
        reaches: Sequence[Tensor | None],
    ) -> Directions | None:
        if self._coordinate is None:
            return None
        rows, indices = part
        devices = {target.device for target in out if target is not None}
        near = {device: {name: _on(value, device) for name, value in given.items()} for device in devices}
        own: list[dict[str, Any]] = [{} if target is None else dict(near[target.device]) for target in out]
        if "offset" in self.signals.known:
            offsets = sums.offsets
            for mapping, index in zip(own, indices, strict=True):
                mapping["offset"] = offsets[index]
        if "reaches" in self.signals.known:
            for mapping, some in zip(own, reaches, strict=True):
                mapping["reaches"] = some
        return directions_by_coordinate(self._coordinate.combine, self.signals.rule, rows, finite, out, own)


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _steps(saved: State, device: torch.device) -> Tensor:
    """How many steps have been taken."""
    steps: Tensor | None = saved.get("step")
    return torch.zeros((), dtype=torch.int64, device=device) if steps is None else steps.to(device)


def _no_autocast(device_type: str) -> AbstractContextManager[object]:
    # some devices have none, such as "meta" for a run without numbers
    if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def write_row(rows: list[Row], finite: Tensor, out: Sequence[Tensor | None]) -> None:
    """Write the only row to ``out``, or NaN unless it is finite, so that no part of a step is taken."""
    weighted_sum(rows, torch.where(finite, 1.0, torch.nan), out)


def _write(rows: list[Row], weights: Tensor, directions: Directions | None, out: Sequence[Tensor | None]) -> None:
    if directions is None:
        weighted_sum(rows, weights, out)
        return
    for target, direction in directions:
        target.copy_(direction)


def _device_of(out: Sequence[Tensor | None]) -> torch.device:
    """The device of the first target, where sums over all of them meet."""
    return next(t.device for t in out if t is not None)
