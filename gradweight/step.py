"""Step: the one under way, from named losses to the direction in ``.grad``."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .accumulation import Accumulated
from .base import check_one_process
from .combination import Combination
from .combiner import Blocks, Combiner, block_of_each
from .gradients import Gradients, Losses, check_losses, evaluate, loss_gradients
from .join import Joined
from .rows import Row, combine, gram, in_place_targets, kept_targets
from .rule import State
from .rule_state import STATE_KEY, unpack
from .shared import at_representation
from .weighted import weighted_gradient

__all__ = ["Settings", "Step"]


@dataclass(frozen=True)
class Settings:
    """How steps are to be taken; `gradweight.MultiObjectiveGradient` documents each field."""

    combiner: Combiner
    names: dict[Tensor, str]
    engine: str
    accumulate: bool
    blocks: Blocks
    refresh_every: int
    process_group: bool | None


@dataclass
class Step:
    """What has been gathered since the last ``zero_grad``, and how more is added to it.

    One object that is changed and never replaced: training frameworks run the wrapper's methods with a proxy as
    `self`, and what they rebind there is lost.
    """

    base: Optimizer
    settings: Settings
    kept: dict[Tensor, Tensor] = field(default_factory=dict)
    last: Combination | None = None
    joined: weakref.ref[Joined] | None = None
    scaler: weakref.ref[Any] | None = None
    accumulated: Accumulated | None = None
    backward_done: bool = False
    written: dict[Tensor, Tensor] = field(default_factory=dict)
    changed: State = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)
    stepped: bool = False

    def __getstate__(self) -> dict[str, Any]:
        # a scalar that waits for its backward belongs to this process's graph
        return vars(self) | {"joined": None, "scaler": None}

    def clear(self) -> None:
        """Forget the gradients that have accumulated."""
        self.accumulated = None
        self.backward_done = False
        self.written = {}
        self.changed = {}
        self.versions = []
        self.stepped = False

    def clear_if_zeroed(self) -> None:
        """Notice that ``model.zero_grad()`` has cleared the gradients behind our back."""
        replaced = self.written and not any(p.grad is t for p, t in self.written.items())
        if replaced or (self.versions != self._versions() and (self.stepped or self._all_zero())):
            self.clear()

    def taken(self) -> Combination | None:
        """The base has stepped: keep what the rule remembers. Returns what the step followed, if it was ours."""
        followed = self.last if self.backward_done and not self.stepped else None
        if self.changed:
            self.base.param_groups[0][STATE_KEY] = self.saved() | self.changed
            self.changed = {}
        self.versions = self._versions()
        self.stepped = True
        if not self.settings.accumulate:
            self.backward_done = False
        return followed

    def saved(self) -> State:
        """What the rule remembers, as of the last step taken."""
        group = self.base.param_groups[0]
        saved: State | str = group.get(STATE_KEY, {})
        if isinstance(saved, str):  # as a checkpoint has it
            saved = group[STATE_KEY] = unpack(saved, group["params"][0].device)
        return saved

    def params(self) -> list[Tensor]:
        """The parameters to differentiate by: those of the base that require a gradient now."""
        params = [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]
        if not params:
            raise ValueError("backward() needs a parameter that requires a gradient; the base optimizer has none")
        return params

    def add(
        self,
        losses: Losses,
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        *,
        shared: Tensor | Sequence[Tensor] | None = None,
        retain_graph: bool = False,
        joined: bool = False,
    ) -> Combination:
        """Add the gradients of one micro-batch and lay the new direction into ``.grad``."""
        check_one_process(self.settings.process_group)
        self.clear_if_zeroed()
        if self.backward_done and (shared is not None or not self.settings.accumulate):
            raise RuntimeError(
                f"{'accumulate=False' if shared is None else 'shared='} says that a step is one backward, whose rows "
                "are not kept; this is the second one before step() or zero_grad(): do without it to add up "
                "micro-batches"
            )
        before = () if self.accumulated is None else self.accumulated.names
        if isinstance(losses, Mapping) and set(losses) == set(before):
            losses = {name: losses[name] for name in before}  # type: ignore[assignment]
        if shared is not None:
            return self._at_representation(losses, shared, signals, scale, retain_graph)
        held = self._held_weights(losses)
        by_losses = not self.settings.combiner.needs_gradients and self.settings.blocks is None
        if held is not None or by_losses:
            return self._weighted(losses, held, signals, scale, retain_graph, joined)
        params = self.params()
        gradients = loss_gradients(
            losses,
            params,
            names=self._names(params),
            engine=self.settings.engine,
            scale=scale,
            retain_graph=retain_graph,
        )
        accumulated = self._plus(gradients, params, signals, scale, joined)
        targets = self._targets(accumulated, retain_graph)
        blocks = self._blocks(accumulated.params)
        combination, changed = self.settings.combiner(accumulated, blocks, self.saved(), targets)
        changed |= self._to_hold(accumulated.names, combination.weights)
        return self._lay(accumulated.params, targets, combination, changed, accumulated)

    def _weighted(
        self,
        losses: Losses,
        held: Tensor | None,
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        retain_graph: bool,
        joined: bool,
    ) -> Combination:
        """A step of one backward, that of the weighted sum: with weights that are held, or that need no gradients."""
        params = self.params()
        values = evaluate(losses, params, self._names(params))
        names, detached = tuple(values), [loss.detach() for loss in values.values()]
        nothing: Row = [None] * len(params)
        so_far = self._plus(Gradients(names, detached, [nothing]), params, signals, scale, joined)
        changed: State = {}
        weights = held
        if weights is None:
            weights, changed = self.settings.combiner.by_losses(so_far, self.saved())
        row = weighted_gradient(
            values, weights, params, engine=self.settings.engine, scale=scale, retain_graph=retain_graph
        )
        accumulated = self._plus(Gradients(names, detached, [row]), params, signals, scale, joined)
        targets = self._targets(accumulated, retain_graph)
        combination = self.settings.combiner.weighted(accumulated, weights, targets)
        changed |= self._to_hold(names, weights)
        return self._lay(accumulated.params, targets, combination, changed, accumulated)

    def _at_representation(
        self,
        losses: Losses,
        shared: Tensor | Sequence[Tensor],
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        retain_graph: bool,
    ) -> Combination:
        """A step whose rule is shown the gradients at a shared tensor."""
        if self.settings.blocks is not None or self.settings.refresh_every > 1:
            raise ValueError(
                "shared= gives one combination on every step: it needs blocks=None and refresh_every=1, got "
                f"blocks={self.settings.blocks!r} and refresh_every={self.settings.refresh_every}"
            )
        params = self.params()
        found = at_representation(check_losses(losses), shared, params, scale=scale, retain_graph=retain_graph)
        features = [tensor.detach() for tensor in found.features]
        accumulated = Accumulated.of(found.gradients, features, signals, scale)
        direction = [torch.zeros_like(tensor) for tensor in features]
        combination, changed = self.settings.combiner(accumulated, None, self.saved(), direction)
        rows = [*found.heads, found.through_trunk(direction, params, retain_graph)]
        finite = torch.stack([torch.isfinite(gram([row])).all() for row in rows if any(t is not None for t in row)])
        targets = kept_targets(rows, params, self.kept)
        combine(rows, torch.where(finite.all(), torch.ones(len(rows), device=finite.device), torch.nan), targets)
        return self._lay(params, targets, combination, changed, None)

    def _plus(
        self,
        gradients: Gradients,
        params: list[Tensor],
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        joined: bool,
    ) -> Accumulated:
        new = Accumulated.of(gradients, params, signals, scale, joined)
        return new if self.accumulated is None else self.accumulated.plus(new)

    def _targets(self, accumulated: Accumulated, retain_graph: bool) -> list[Tensor | None]:
        # a graph that is kept may hold the very tensors that it returned as gradients
        if not self.settings.accumulate and not retain_graph:
            return in_place_targets(accumulated.rows, accumulated.params)
        return kept_targets(accumulated.rows, accumulated.params, self.kept)

    def _lay(
        self,
        params: list[Tensor],
        targets: list[Tensor | None],
        combination: Combination,
        changed: State,
        accumulated: Accumulated | None,
    ) -> Combination:
        """Make the direction the gradient. Nothing here can fail, and what came before has replaced nothing."""
        for p, target in zip(params, targets, strict=True):
            p.grad = target
        self.accumulated = accumulated if self.settings.accumulate else None
        self.backward_done = True
        self.changed = changed
        self.written = {p: target for p, target in zip(params, targets, strict=True) if target is not None}
        self.versions = self._versions()
        self.stepped = False
        self.last = combination
        return combination

    def _held_weights(self, losses: Losses) -> Tensor | None:
        if self.settings.refresh_every == 1:
            return None
        if not isinstance(losses, Mapping) or any(not isinstance(loss, Tensor) for loss in losses.values()):
            raise TypeError(f"refresh_every={self.settings.refresh_every} needs a mapping of tensors; got functions")
        saved = self.saved()
        held: Tensor | None = saved.get(_held_key(losses)) if saved.get("age", 0) else None
        return held

    def _to_hold(self, names: tuple[str, ...], weights: Tensor) -> State:
        if self.settings.refresh_every == 1:
            return {}
        return {_held_key(names): weights, "age": (self.saved().get("age", 0) + 1) % self.settings.refresh_every}

    def _names(self, params: list[Tensor]) -> list[str] | None:
        names = self.settings.names
        return [names[p] for p in params] if all(p in names for p in params) else None

    def _blocks(self, params: list[Tensor]) -> list[str | None] | None:
        if self.settings.blocks is None:
            return None
        group = {p: i for i, members in enumerate(self.base.param_groups) for p in members["params"]}
        return block_of_each(self.settings.blocks, [group[p] for p in params], self._names(params))

    def _all_zero(self) -> bool:
        # Asks the device, but only where somebody has written to a .grad since it was laid and no step was taken: a
        # zero_grad(set_to_none=False) after a step that GradScaler skipped, or clipping between micro-batches.
        return not any(bool(tensor.any()) for tensor in self.written.values())

    def _versions(self) -> list[int]:
        return [tensor._version for tensor in self.written.values()]


def _held_key(names: Iterable[str]) -> str:
    return "weights of " + "~".join(names)
