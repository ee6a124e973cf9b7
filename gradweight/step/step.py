"""Step: the one under way, from named losses to the direction in ``.grad``."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..combination import Combination
from ..contract.arguments import loss_scale
from ..contract.grad_hooks import run_grad_hooks
from ..distributed import communicator_of, stays
from ..distributed.communicator import Communicator
from ..gradients.accumulation import AccumulatedGradients
from ..gradients.losses import Losses, as_plain
from ..gradients.vector_losses import expanded
from ..rule import State
from .base_steps import count_steps
from .deferred import Deferred
from .due import Due, split_due
from .grad_watch import GradWatch, added_to
from .micro_batch import MicroBatch
from .phase import Phase
from .plans import Outcome
from .progress import Progress
from .retained import remember_retained, warn_of_two_rules
from .rule_state import STATE_KEY, keep, saved_in
from .settings import Settings
from .state_names import warn_of_another_rule, warn_of_other_losses
from .step_check import check_scaler, check_synced, warn_of_cleared_closure, warn_of_no_step, warn_of_other_gradients
from .streamed_plan import plan_for

__all__ = ["Step"]


@dataclass
class Step:
    """The step under way, and how a micro-batch is added to it.

    One object that is changed and never replaced: training frameworks run the wrapper's methods with a proxy as
    `self`, and what they rebind there is lost.

    Args:
        base: the base optimizer.
        settings: how steps are to be taken.
        local_only: whether rows are not to be averaged for now (`no_sync`).
        progress: what has been gathered since the last ``zero_grad``.
        last: what the last `backward` returned.
        deferred: what the last `join` or `split_at` left for the host's backward pass.
        scaler: what the last `backward` was given.
        warned: whether it was said that a step follows other gradients.
        two_rules: whether it was said that another wrapper was given the same losses.
        through_wrapper: whether the base's step that is to come was called by the wrapper.
        loaded: whether a checkpoint was loaded, and no `backward` called since.
        unreached: whether what `split_at` returned was given up before a backward pass came to it, since the last step.
        dropped, dropped_before: directions cleared since the last step that followed one; as this step began.
    """

    base: Optimizer
    settings: Settings
    local_only: bool = False
    progress: Progress = field(default_factory=Progress)
    last: Combination | None = None
    deferred: weakref.ref[Deferred] | None = None
    scaler: weakref.ref[Any] | None = None
    warned: bool = False
    two_rules: bool = False
    through_wrapper: bool = False
    loaded: bool = False
    unreached: bool = False
    dropped: int = 0
    dropped_before: int = 0
    _communicator: Communicator | None = None

    def __post_init__(self) -> None:
        count_steps(self)
        if self.settings.remembers:  # distributed checkpoints load what is there already
            self.base.param_groups[0].setdefault(STATE_KEY, {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        # a scalar that waits for its backward belongs to this process's graph, and so do its connections to others
        return vars(self) | {"deferred": None, "scaler": None, "_communicator": None}

    def backward(
        self,
        losses: Losses,
        signals: Mapping[str, Tensor | float],
        scaler: Any,
        *,
        shared: Tensor | Sequence[Tensor] | None = None,
        due: Due = None,
        retain_graph: bool = False,
        caller: str = "backward()",
    ) -> Combination:
        """`add`, times the scale of a `GradScaler`."""
        scale = None if scaler is None else loss_scale(scaler, self.params()[0].device)
        self.scaler = None if scaler is None else weakref.ref(scaler)
        return self.add(losses, signals, scale, shared=shared, due=due, retain_graph=retain_graph, caller=caller)

    def add(
        self,
        losses: Losses,
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        *,
        shared: Tensor | Sequence[Tensor] | None = None,
        due: Due = None,
        retain_graph: bool = False,
        joined: bool = False,
        caller: str = "backward()",
    ) -> Combination:
        """Add the gradients of one micro-batch and write the new direction to ``.grad``."""
        losses, names = split_due(as_plain(losses), due, self.settings.averager)
        self.two_rules = self.two_rules or warn_of_two_rules(losses, self)
        if retain_graph:
            remember_retained(losses, self)
        params = self.params()
        communicator = self.communicator(params)
        with nullcontext() if self.local_only else communicator.telling_errors():
            losses = expanded(losses, params)
            if self.progress.zeroed():
                self.clear()
            self._check_another(shared is not None)
            micro = MicroBatch(
                losses,
                params,
                signals,
                scale,
                retain_graph,
                joined,
                caller,
                self.settings,
                communicator,
                self.base.param_groups,
                self.saved(),
                self.progress.accumulated,
                self.progress.unsynced,
                names,
                self.base.state,
            )
            plan = plan_for(micro, shared)
        plan.prepare()
        if self.local_only and communicator.size > 1 and shared is None:
            return self._keep_unsynced(plan.unsynced(plan.local_rows()))
        all_params, unsynced = micro.unsynced_rows()
        with communicator.averaged_rows(plan.row_names, all_params, unsynced, micro.describe) as averaged:
            local = plan.local_rows()
            rows = averaged.average(local)
        outcome = communicator.all_or_none_raise(
            lambda: plan.combine(local, rows, all_params), lambda _: micro.describe()
        )
        grads = communicator.all_gather_direction(outcome.parts, outcome.params)
        if self.loaded:
            self.loaded = warn_of_other_losses(self.settings.combiner.rule, outcome.rule_state, self.saved())
        return self._commit(outcome, grads, micro.adds_up)

    def _check_another(self, shared: bool) -> None:
        phase, more_allowed = self.progress.phase, self.progress.accumulated is not None
        begun = phase in (Phase.READY, Phase.UNSYNCED) or (phase is Phase.STEPPED and more_allowed)
        if (begun and shared) or (phase is Phase.READY and not more_allowed):
            raise RuntimeError(
                f"{self.settings.why_one_backward}; this is the second one before step() or zero_grad(): do without "
                "it to add up micro-batches"
            )

    def _keep_unsynced(self, new: AccumulatedGradients) -> Combination:
        """Keep this process's gradients until the `backward` that averages them."""
        before = self.progress.unsynced
        self.progress.unsynced = new if before is None else before.add(new)
        self.progress.phase = Phase.UNSYNCED
        unknown = torch.full_like(new.losses, torch.nan)
        return Combination(new.names, unknown, unknown.expand(len(unknown), -1), unknown)

    def _commit(self, outcome: Outcome, directions: list[Tensor | None], adds_up: bool) -> Combination:
        """Add the direction to the gradients of others. Nothing before has written to a tensor in ``.grad``."""
        params, progress = outcome.params, self.progress
        foreign = progress.foreign | progress.watch.foreign(params)
        grads = added_to(foreign, params, directions) if foreign else directions
        before = [p.grad for p in params]
        try:
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            self.progress = Progress(
                Phase.READY,
                outcome.accumulated if adds_up else None,
                None,
                outcome.rule_state,
                GradWatch.of(params, directions),
                foreign,
                outcome.averages,
            )
            self.last = outcome.combination
        except BaseException:  # an interrupt
            self.progress = progress
            for p, grad in zip(params, before, strict=True):
                p.grad = grad
            raise
        if run_grad_hooks(params):  # what they do to .grad is as right as clipping it
            self.progress.watch.look()
        return outcome.combination

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it, what `add` gathers is not averaged over the processes."""
        before, self.local_only = self.local_only, True
        try:
            yield
        finally:
            self.local_only = before

    # ---- before and after

    def params(self) -> list[Tensor]:
        """The parameters to differentiate by: those of the base that require a gradient now."""
        if not (params := self.trained()):
            raise ValueError("backward() needs a parameter that requires a gradient; the base optimizer has none")
        return params

    def trained(self) -> list[Tensor]:
        """The same; an empty list where everything is frozen."""
        # by id: a parameter may be listed twice, and the hash of a tensor is a call in Python
        return list({id(p): p for group in self.base.param_groups for p in group["params"] if p.requires_grad}.values())

    def communicator(self, params: list[Tensor]) -> Communicator:
        """What the processes that take this step together communicate by."""
        if self._communicator is None or not stays(self._communicator):
            self._communicator = communicator_of(self.settings.process_group, self.settings.reduce, params)
        return self._communicator

    def saved(self) -> State:
        """What the rule remembers, as of the last step taken."""
        return saved_in(self.base)

    def after_load(self) -> None:
        """The base has loaded a checkpoint."""
        self.progress.rule_state, self.loaded = {}, True
        warn_of_another_rule(self.settings.combiner.rule, self.saved())

    def clear(self) -> None:
        """Forget the gradients that have accumulated."""
        if self.progress.phase is Phase.READY:
            self.dropped = warn_of_no_step(self.dropped + 1, remembers=bool(self.progress.rule_state))
        self.progress = Progress()

    def check_ready(self, *, closure: bool) -> None:
        """Raise `RuntimeError` if the base must not step yet; a ``closure`` may itself leave a scalar of `join` out."""
        check_synced(self.progress.phase)
        if not closure and (waiting := self.waiting()) is not None:
            raise RuntimeError(f"step() came while {waiting}: {waiting.remedy}")
        ready = self.progress.phase is Phase.READY
        if self.scaler is not None and ready:
            check_scaler(self.scaler(), self.base)
        if not (closure or self.warned):
            watch = self.progress.watch if ready else None
            begun, unreached = self.last is not None, self.unreached
            self.warned = warn_of_other_gradients(watch, self.base, begun=begun, unreached=unreached)
        self.through_wrapper, self.dropped_before = True, self.dropped

    def after_base_step(self, optimizer: Optimizer | None = None) -> Combination | None:
        """The base has stepped: keep what the rule remembers. Returns what the step followed, if it was ours.

        Args:
            optimizer: which of several, if it was called by itself.
        """
        progress = self.progress
        if progress.phase is Phase.READY:
            self.keep_averages(optimizer)
        self.through_wrapper = self.unreached = False
        if progress.phase is Phase.EMPTY and self.dropped > self.dropped_before:
            warn_of_cleared_closure()
        followed = self.last if progress.phase is Phase.READY else None
        if progress.rule_state:
            keep(self.base.param_groups[0].setdefault(STATE_KEY, self.saved()), progress.rule_state)
            progress.rule_state = {}
        self.dropped *= followed is None  # 0 after one that was ours
        progress.watch.look()
        progress.phase = Phase.STEPPED
        return followed

    def keep_averages(self, optimizer: Optimizer | None) -> None:
        """Keep the averages of the gradients that the optimizer, of several, or all of them have stepped along."""
        progress = self.progress
        if progress.averages is not None:
            by_another = optimizer is None and not self.through_wrapper
            progress.averages = progress.averages.commit(self.base.state, optimizer, all_followed=by_another)

    def waiting(self) -> Deferred | None:
        """What the last `join` or `split_at` left for a backward pass, if it is alive and none has come to it."""
        deferred = None if self.deferred is None else self.deferred()
        return None if deferred is None or deferred.done else deferred
