"""CR-MOGM: the weights of another rule, averaged over the steps."""

from dataclasses import dataclass, field
from typing import Any

from ..rule import Array, Names, Rule, State, array_namespace, faster_on_numpy_from
from ._arguments import check_range
from ._shares import has_gradient
from ._wrapped import Wrapped, check_known, given_signals


@dataclass(frozen=True)
class CRMOGM:
    """Another rule with its weights smoothed: noise in a mini-batch turns the direction less.

    With ``lambda^_t`` the weights of the wrapped rule, ``lambda_t = alpha lambda_(t-1) + (1 - alpha) lambda^_t``;
    (m, m) -> (m,). The average starts from each loss's first weight. A loss whose gradient is exactly zero has weight
    0 on that step and keeps its average.

    What holds for each of the wrapped rule's directions, to be free of conflict say, does not hold for the average.

    Args:
        rule: what to smooth: a rule that returns weights, stateful or not.
        alpha: how much of the past to keep, in [0, 1).

    Signals:
        Those of the wrapped rule.

    Raises:
        TypeError: ``rule`` is not a rule, or one that acts on coordinates and has no weights, or one that needs
            statistics of the gradients' entries.
        ValueError: alpha out of its range.

    Example:
        >>> import numpy as np
        >>> from gradweight.rules import AngleBisector
        >>> rule = CRMOGM(AngleBisector(), alpha=0.5)
        >>> weights, state = rule.update(np.diag([1.0, 4.0]), rule.init(np.eye(2)))
        >>> weights, rule.update(np.diag([1.0, 16.0]), state)[0]
        (array([1. , 0.5]), array([1.   , 0.375]))

    Reference:
        Zhou, Zhang, Jiang, Zhong, Gu, Zhu. On the Convergence of Stochastic Multi-Objective Gradient Manipulation and
        Beyond. NeurIPS 2022.

    Deviations:
        The paper starts from any point of the simplex and may let alpha grow to 1 as the learning rate falls; ours is
        constant.
    """

    rule: Rule
    alpha: float = 0.9
    inner: Wrapped = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", Wrapped.of("CRMOGM", self.rule, "wrapped."))
        check_range("CRMOGM", "alpha", self.alpha, 0, 1, below=True)

    @property
    def needs_gradients(self) -> bool:
        """As the wrapped rule says: an average of weights that follow from the losses follows from them, too."""
        return bool(getattr(self.rule, "needs_gradients", True))

    @property
    def faster_on_numpy_from(self) -> float:
        """As the wrapped rule says."""
        return faster_on_numpy_from(self.rule)

    def init(self, gram: Array) -> State:
        xp = array_namespace(gram)
        own = {"average": 0 * xp.linalg.diagonal(gram), "seen": 0 * xp.linalg.diagonal(gram)}
        return own | self.inner.initial(self.rule, gram)

    def update(
        self,
        gram: Array,
        state: State,
        /,
        *,
        names: Names = None,
        losses: Array = None,
        step: Array = None,
        **signals: Any,
    ) -> tuple[Array, State]:
        xp = array_namespace(gram)
        check_known(signals, self.inner)
        given = given_signals(names, losses, step, signals)
        new, after = self.inner.decide(self.rule, gram, state, given)
        active = has_gradient(gram)
        old = xp.where(state["seen"] > 0, state["average"], new)
        average = xp.where(active > 0, self.alpha * old + (1 - self.alpha) * new, state["average"])
        return average * active, {"average": average, "seen": xp.maximum(state["seen"], active)} | after
