"""Fade: the weights of one rule at first, of another in the end, and a mixture of both between."""

from dataclasses import dataclass, field
from typing import Any

from ..rule import Array, Names, Rule, State, array_namespace, faster_on_numpy_from
from ._arguments import check_whole
from ._solvers.arrays import at_least, at_most
from ._wrapped import Wrapped, check_known, given_signals


@dataclass(frozen=True)
class Fade:
    """A schedule from one rule to another: ``w = (1 - s) u + s v``, s rising from 0 to 1.

    With u the weights of the first rule and v those of the second, ``s = clip((t - start) / steps, 0, 1)`` for the
    number t of the step, counted from 0; (m, m) -> (m,). Both rules are asked on every step, so that the state of the
    second is up to date when its turn comes. What both claim of their directions holds where it is kept by adding:
    no conflict, for one; a length that is always the same does not.

    Args:
        first: a rule that returns weights, stateful or not.
        second: another.
        steps: over how many steps, at least 1.
        start: the last step of the first rule alone, at least 0.

    Signals:
        step: supplied automatically; and those of both rules.

    Raises:
        TypeError: one of them is not a rule, or acts on coordinates and has no weights, or needs statistics of the
            gradients' entries.
        ValueError: ``steps`` or ``start`` out of its range.

    Example:
        >>> import numpy as np
        >>> from gradweight.rules import Mean, Sum
        >>> rule, gram = Fade(Sum(), Mean(), steps=10), np.eye(2)
        >>> [rule.update(gram, {}, step=t)[0].tolist() for t in (0, 5, 10)]
        [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5]]
    """

    first: Rule
    second: Rule
    steps: int
    start: int = 0
    inner: tuple[Wrapped, Wrapped] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inner = Wrapped.of("Fade", self.first, "first."), Wrapped.of("Fade", self.second, "second.")
        object.__setattr__(self, "inner", inner)
        check_whole("Fade", "steps", self.steps, 1)
        check_whole("Fade", "start", self.start, 0)

    @property
    def rules(self) -> tuple[Rule, Rule]:
        """Both."""
        return self.first, self.second

    @property
    def needs_gradients(self) -> bool:
        """Unless both say that they do not."""
        return any(bool(getattr(rule, "needs_gradients", True)) for rule in self.rules)

    @property
    def faster_on_numpy_from(self) -> float:
        """From where both are."""
        return max(map(faster_on_numpy_from, self.rules))

    def init(self, gram: Array) -> State:
        first, second = self.inner
        return first.initial(self.first, gram) | second.initial(self.second, gram)

    def update(
        self,
        gram: Array,
        state: State,
        /,
        *,
        step: Array,
        names: Names = None,
        losses: Array = None,
        **signals: Any,
    ) -> tuple[Array, State]:
        xp = array_namespace(gram)
        check_known(signals, *self.inner)
        given = given_signals(names, losses, step, signals)
        first, second = self.inner
        u, one = first.decide(self.first, gram, state, given)
        v, other = second.decide(self.second, gram, state, given)
        like = 0 * xp.sum(xp.linalg.diagonal(gram))
        share = at_most(at_least((step - self.start + xp.zeros_like(like)) / self.steps, 0), 1)
        return u + share * (v - u), one | other
