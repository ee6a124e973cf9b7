"""Progress: what has been gathered since the last ``zero_grad``."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..gradients.accumulation import AccumulatedGradients
from ..rule import State
from .grad_watch import GradWatch
from .phase import Phase
from .proposed_averages import ProposedAverages

__all__ = ["Progress"]


@dataclass
class Progress:
    """What has been gathered since the last ``zero_grad``.

    Args:
        phase: where the step is.
        accumulated: averaged per-loss sums over the micro-batches; None if no further one may be added.
        unsynced: those of this process that were not averaged yet.
        rule_state: the entries of the rule's state that change if the step is taken.
        watch: what was written to ``.grad``.
        foreign: what lay in ``.grad`` before, which the direction was added to.
        averages: what the averages of the gradients are if the step is taken; None for a rule that asks for none.
    """

    phase: Phase = Phase.EMPTY
    accumulated: AccumulatedGradients | None = None
    unsynced: AccumulatedGradients | None = None
    rule_state: State = field(default_factory=dict)
    watch: GradWatch = field(default_factory=GradWatch)
    foreign: dict[Tensor, Tensor] = field(default_factory=dict)
    averages: ProposedAverages | None = None

    def zeroed(self) -> bool:
        """Whether ``model.zero_grad()``, or the base's step, has cleared the gradients behind our back.

        After a step the values are looked at, a host sync: ``p.grad.data.zero_()`` leaves no other trace.

        Raises:
            RuntimeError: other gradients lie there, and no step was taken: they may be meant to replace the sums over
                micro-batches, to be added to them, or to be forgotten with them.
        """
        watch, stepped = self.watch, self.phase is Phase.STEPPED
        more_allowed = self.accumulated is not None
        if watch.replaced():
            if not stepped and watch.others_nonzero():
                raise RuntimeError(
                    "other tensors lie in .grad than the last backward() has put there, and no step was taken: call "
                    "zero_grad() to begin anew"
                )
            return True
        if stepped:
            return watch.changed() or (more_allowed and watch.look_for_zeros())
        if not watch.changed():
            return False
        if watch.all_zero():
            return True
        if more_allowed:
            raise RuntimeError(
                ".grad was written to between two micro-batches of one step, and the next direction would replace "
                "what was written: put every loss into the mapping, or walk it back before the first backward() of "
                "the step or after the last; clip after the last"
            )
        return False
