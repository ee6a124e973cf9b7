"""Step: the one under way, from named losses to the direction in ``.grad``."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..combination import Combination
from ..distributed import processes_of, stays
from ..distributed.local import Exchanging
from ..gradients.accumulation import Accumulated
from ..gradients.engines import OnRow, loss_gradients
from ..gradients.losses import Losses, check_losses, evaluate
from ..gradients.missing_losses import present, with_absent
from ..gradients.representation import Representation, at_representation
from ..gradients.results import Gradients
from ..gradients.weighted import weighted_gradient
from ..linalg.host_access import is_captured
from ..linalg.rows import Row, added
from ..linalg.weighted_sum import weighted_sum
from ..rule import State
from .combiner import block_of_each
from .join import Joined
from .rule_state import STATE_KEY, keep, unpack
from .settings import MicroBatch, Settings
from .state_names import for_losses, remembered_order

__all__ = ["Step"]

SUM = "the weighted sum"


@dataclass
class Step:
    """What has been gathered since the last ``zero_grad``, and how more is added to it.

    One object that is changed and never replaced: training frameworks run the wrapper's methods with a proxy as
    `self`, and what they rebind there is lost.
    """

    base: Optimizer
    settings: Settings
    processes: Exchanging | None = None
    local_only: bool = False
    waiting: Accumulated | None = None
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
        # a scalar that waits for its backward belongs to this process's graph, and so do its connections to others
        return vars(self) | {"joined": None, "scaler": None, "processes": None}

    def clear(self) -> None:
        """Forget the gradients that have accumulated."""
        self.waiting = None
        self.accumulated = None
        self.backward_done = False
        self.written = {}
        self.changed = {}
        self.versions = []
        self.stepped = False

    def waiting_join(self) -> Joined | None:
        """What `join` was given last, if somebody holds its scalar and nobody has gone backward from it."""
        joined = None if self.joined is None else self.joined()
        return None if joined is None or joined.done else joined

    def clear_if_zeroed(self) -> None:
        """Notice that ``model.zero_grad()`` has cleared the gradients behind our back.

        Raises:
            RuntimeError: other gradients lie there, and no step was taken: they may be meant to replace the sums over
                micro-batches, or to be forgotten with them.
        """
        replaced = self.written and not any(p.grad is t for p, t in self.written.items())
        if replaced and not self.stepped and any(p.grad is not None and bool(p.grad.any()) for p in self.written):
            raise RuntimeError(
                "other tensors lie in .grad than the last backward() has put there, and no step was taken: call "
                "zero_grad() to begin anew, or change gradients in place to add up micro-batches"
            )
        if replaced or (self.versions != self._versions() and (self.stepped or self._all_zero())):
            self.clear()

    def taken(self) -> Combination | None:
        """The base has stepped: keep what the rule remembers. Returns what the step followed, if it was ours."""
        followed = self.last if self.backward_done and not self.stepped else None
        if self.changed:
            keep(self.base.param_groups[0].setdefault(STATE_KEY, self.saved()), self.changed)
            self.changed = {}
        self.versions = self._versions()
        self.stepped = True
        if self.accumulated is None:  # nothing to add to
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
        self.clear_if_zeroed()
        begun = self.backward_done or self.waiting is not None
        if (begun and shared is not None) or (self.backward_done and self.accumulated is None):
            raise RuntimeError(
                f"{'shared=' if self.settings.accumulate else 'accumulate=False'} says that a step is one backward, "
                "whose rows are not kept; this is the second one before step() or zero_grad(): do without it to add up "
                "micro-batches"
            )
        if isinstance(losses, Mapping):
            losses = {name: losses[name] for name in self._ordered(losses)}  # type: ignore[assignment]
        micro = MicroBatch(losses, self.params(), signals, scale, retain_graph, joined, self.settings)
        processes = self.exchanging(micro.params)
        if shared is not None:
            return self._at_representation(micro, shared, processes)
        if self.accumulated is not None:
            processes.check_micro_batch(self.accumulated.params, micro.params)
        held = self._held_weights(losses)
        by_losses = not self.settings.combiner.needs_gradients and self.settings.blocks is None
        if held is not None or by_losses:
            return self._weighted(micro, held, processes)

        def compute(losses: Losses, on_row: OnRow | None) -> Gradients:
            micro.check_signals()
            found = loss_gradients(
                losses,
                micro.params,
                names=self._names(micro.params),
                engine=self.settings.engine,
                scale=scale,
                retain_graph=retain_graph,
                on_row=on_row,
            )
            return found.ordered(self._ordered(found.names)) if callable(losses) else found

        if self.local_only and processes.size > 1:
            return self._wait(micro, processes.local_gradients(losses, micro.params, compute))
        params, rows = self._waiting_rows(micro.params)
        gradients = processes.gradients(losses, params, rows, micro.call, compute)
        accumulated = self._plus(self._mean(micro, gradients, processes), gradients.rows, params)
        targets = self._targets(accumulated, retain_graph, processes)
        blocks, sums = self._blocks(accumulated.params), processes.sums(accumulated.params)
        combination, changed = self.settings.combiner(accumulated, blocks, self.saved(), targets, sums)
        changed |= self._to_hold(accumulated.names, combination.weights, found=True)
        grads = processes.gathered(targets, accumulated.params)
        return self._lay(accumulated.params, grads, combination, changed, accumulated)

    def exchanging(self, params: list[Tensor]) -> Exchanging:
        """The processes that take this step together."""
        if self.processes is None or not stays(self.processes):
            self.processes = processes_of(self.settings.process_group, self.settings.reduce, params)
        return self.processes

    def _weighted(self, micro: MicroBatch, held: Tensor | None, processes: Exchanging) -> Combination:
        """A step of one backward, that of the weighted sum: with weights that are held, or that need no gradients."""
        params, names = micro.params, self._names(micro.params)
        settings = self.settings

        def valued() -> tuple[dict[str, Tensor], Gradients]:
            micro.check_signals()
            # losses that this process does not have count as zero, here as everywhere
            mine = present(micro.losses) if processes.size > 1 else None
            values = evaluate(micro.losses if mine is None else mine, params, names) if mine != {} else {}
            if callable(micro.losses):
                values = {name: values[name] for name in self._ordered(values)}
            all_names = tuple(values if mine is None else micro.losses)
            return values, with_absent(values, all_names, params)

        values, known = processes.together(valued, lambda found: micro.described(found[1].names))
        mean = self._mean(micro, known, processes)
        weights = held
        if weights is not None:
            changed = settings.combiner.held(self.saved(), weights.device)
        else:
            nothing: Row = [None] * len(params)
            weights, changed = settings.combiner.by_losses(self._plus(mean, [nothing], params), self.saved())
        mine = torch.stack([weights[i] for i, name in enumerate(known.names) if name in values] or [weights[0]])

        def compute(_: object, on_row: OnRow | None = None) -> Gradients:
            row = weighted_gradient(
                values, mine, params, engine=settings.engine, scale=micro.scale, retain_graph=micro.retain_graph
            )
            return Gradients((SUM,), [mine[0]], [row if on_row is None else on_row(SUM, row)])

        total = {SUM: mine[0] if values else None}
        if self.local_only and processes.size > 1:
            local = processes.local_gradients(total, params, compute)
            return self._wait(micro, replace(known, rows=local.rows))
        params, rows = self._waiting_rows(params)
        gradients = processes.gradients(total, params, rows, micro.call, compute)
        accumulated = self._plus(mean, gradients.rows, params)
        targets = self._targets(accumulated, micro.retain_graph, processes)
        combination = settings.combiner.weighted(accumulated, weights, targets, processes.sums(accumulated.params))
        changed |= self._to_hold(known.names, weights, found=held is None)
        grads = processes.gathered(targets, accumulated.params)
        return self._lay(accumulated.params, grads, combination, changed, accumulated)

    def _at_representation(
        self, micro: MicroBatch, shared: Tensor | Sequence[Tensor], processes: Exchanging
    ) -> Combination:
        """A step whose rule is shown the gradients at a shared tensor."""
        if self.settings.blocks is not None or self.settings.refresh_every > 1:
            raise ValueError(
                "shared= gives one combination on every step: it needs blocks=None and refresh_every=1, got "
                f"blocks={self.settings.blocks!r} and refresh_every={self.settings.refresh_every}"
            )
        params, scale, retain_graph = micro.params, micro.scale, micro.retain_graph

        def walked() -> Representation:
            micro.check_signals()
            return at_representation(check_losses(micro.losses), shared, params, scale=scale, retain_graph=retain_graph)

        found = processes.together(walked, lambda found: f"shared= of {micro.described(found.gradients.names)}")
        features = [tensor.detach() for tensor in found.features]
        accumulated = processes.average(Accumulated.of(found.gradients, features, micro.signals, scale))
        direction = [torch.zeros_like(tensor) for tensor in features]
        sums = processes.sums_of_samples(features)
        combination, changed = self.settings.combiner(accumulated, None, self.saved(), direction, sums)

        def compute(_: object, on_row: OnRow | None = None) -> Gradients:
            row = added([*found.heads, found.through_trunk(direction, params, retain_graph)])
            return Gradients((SUM,), [combination.losses[0]], [row if on_row is None else on_row(SUM, row)])

        rows = processes.gradients({SUM: combination.losses[0]}, params, [], micro.call, compute).rows
        [squared] = processes.sums(params).grams([(rows, range(len(params)))])
        targets = processes.targets(rows, params, in_place=False)
        weighted_sum(rows, torch.where(torch.isfinite(squared[0]), 1.0, torch.nan), targets)
        return self._lay(params, processes.gathered(targets, params), combination, changed, None)

    def _wait(self, micro: MicroBatch, gradients: Gradients) -> Combination:
        """Keep this process's gradients until the `backward` that averages them."""
        new = Accumulated.of(gradients, micro.params, micro.signals, micro.scale, micro.joined)
        self.waiting = new if self.waiting is None else self.waiting.plus(new)
        unknown = torch.full_like(new.losses, torch.nan)
        return Combination(new.names, unknown, unknown.expand(len(unknown), -1), unknown)

    def _waiting_rows(self, params: list[Tensor]) -> tuple[list[Tensor], list[Row]]:
        """The parameters and those that only waiting gradients refer to, and the waiting rows in that order."""
        return (params, []) if self.waiting is None else self.waiting.over(params)

    def _mean(self, micro: MicroBatch, gradients: Gradients, processes: Exchanging) -> Accumulated:
        """Losses and signals of this micro-batch and of those that waited, averaged; no rows."""
        of = replace(gradients, rows=[])
        new = Accumulated.of(of, micro.params, micro.signals, micro.scale, micro.joined)
        if self.waiting is not None:
            new = replace(self.waiting, rows=[]).plus(new)
        return processes.average(new)

    def _plus(self, mean: Accumulated, rows: list[Row], params: list[Tensor]) -> Accumulated:
        new = replace(mean, params=params, rows=rows)
        return new if self.accumulated is None else self.accumulated.plus(new)

    def _targets(self, accumulated: Accumulated, retain_graph: bool, processes: Exchanging) -> list[Tensor | None]:
        # a graph that is kept may hold the very tensors that it returned as gradients
        in_place = not self.settings.accumulate and not retain_graph
        return processes.targets(accumulated.rows, accumulated.params, in_place)

    def _lay(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        combination: Combination,
        changed: State,
        accumulated: Accumulated | None,
    ) -> Combination:
        """Make the direction the gradient. Nothing here can fail, and what came before has replaced nothing."""
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        self.waiting = None
        self.accumulated = accumulated if self.settings.accumulate else None
        self.backward_done = True
        self.changed = changed
        self.written = {p: grad for p, grad in zip(params, grads, strict=True) if grad is not None}
        self.versions = self._versions()
        self.stepped = False
        self.last = combination
        return combination

    def _ordered(self, names: Collection[str]) -> Collection[str]:
        """The names of a step's losses in the order of those that they are added to, or that a state is kept for.

        Sums and states are by position, a mapping's order may be any.
        """
        earlier = self.accumulated or self.waiting
        before = remembered_order(names, self.saved()) if earlier is None else earlier.names
        return names if before is None or set(names) != set(before) else before

    def _held_weights(self, losses: Losses) -> Tensor | None:
        if self.settings.refresh_every == 1:
            return None
        if not isinstance(losses, Mapping) or any(callable(v) and not isinstance(v, Tensor) for v in losses.values()):
            raise TypeError(f"refresh_every={self.settings.refresh_every} needs a mapping of tensors; got functions")
        if is_captured(self.base.param_groups[0]["params"][0]):
            raise RuntimeError(
                f"refresh_every={self.settings.refresh_every} has the host decide which steps find new weights, and a "
                "step that is captured in a CUDA graph does the same at every replay: capture with refresh_every=1"
            )
        saved = self.saved()
        found: int | None = saved.get(for_losses("step", losses))
        if found is None or saved["steps"] - found >= self.settings.refresh_every:
            return None
        held: Tensor = saved[for_losses("weights", losses)]
        return held

    def _to_hold(self, names: tuple[str, ...], weights: Tensor, found: bool) -> State:
        """The weights for each set of losses, when they were found, and how many steps have been taken."""
        if self.settings.refresh_every == 1:
            return {}
        steps: int = self.saved().get("steps", 0)
        new: State = {for_losses("weights", names): weights, for_losses("step", names): steps} if found else {}
        return new | {"steps": steps + 1}

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
