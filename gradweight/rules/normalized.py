"""Normalized: another rule, shown gradients that are divided by their norms or by their losses."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..rule import Array, Names, Rule, Signals, State, array_namespace, faster_on_numpy_from
from ._shares import has_gradient
from ._solvers.correlations import correlations, inverse_norms
from ._wrapped import Wrapped, check_known, given_signals


@dataclass(frozen=True)
class Normalized:
    """Another rule on gradients of one scale: on unit vectors, or on those of the logarithms of the losses.

    With ``n_i = |g_i|`` (``by="norm"``) or ``n_i = L_i`` (``by="loss"``, so that ``g_i / n_i`` is the gradient of
    ``log L_i``), the wrapped rule is shown ``G_ij / (n_i n_j)``, and its weights are divided by n: ``w_i = v_i / n_i``;
    (m, m) -> (m,). The direction then does not depend on the scale of a loss.

    With ``by="norm"`` the length of the step does not depend on that of the gradients, either: see the choices that
    come before the rule in docs/rules.md. A loss whose gradient is exactly zero, or, with ``by="loss"``, whose value is
    0, has weight 0 and is shown to the rule as a gradient of zero. By loss, a negative one makes all weights NaN.

    Args:
        rule: a rule that returns weights, stateful or not.
        by: "norm" or "loss".

    Signals:
        Those of the wrapped rule, which sees the values of the losses as they are; with ``by="loss"``, losses.

    Raises:
        TypeError: ``rule`` is not a rule, or one that acts on coordinates and has no weights, or one that needs
            statistics of the gradients' entries.
        ValueError: no such ``by``.

    Example:
        >>> import numpy as np
        >>> from gradweight.rules import UPGrad
        >>> rule, gram = Normalized(UPGrad()), np.diag([1.0, 1e6])
        >>> weights, _ = rule.update(gram, rule.init(gram))
        >>> weights * np.sqrt(np.diag(gram))                            # UPGrad has (0.5, 500) here
        array([0.5, 0.5])

    Reference:
        Around MGDA, by norm or by loss (or both), in the code of: Sener, Koltun. Multi-Task Learning as Multi-Objective
        Optimization. NeurIPS 2018, arXiv:1810.04650.

    Deviations:
        There the scaled gradients give the weights, which are then those of the losses themselves: their direction is
        not the one that the rule had found, and may conflict. Here the weights are divided by n.
    """

    rule: Rule
    by: Literal["norm", "loss"] = "norm"
    inner: Wrapped = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner", Wrapped.of("Normalized", self.rule, "wrapped."))
        if self.by not in ("norm", "loss"):
            raise ValueError(f"Normalized needs by 'norm' or 'loss'; got {self.by!r}")

    @property
    def needs_losses(self) -> bool:
        """To be divided by, or where the wrapped rule requires them."""
        return self.by == "loss" or "losses" in Signals.of(self.rule).required

    @property
    def faster_on_numpy_from(self) -> float:
        """As the wrapped rule says."""
        return faster_on_numpy_from(self.rule)

    def init(self, gram: Array) -> State:
        return self.inner.initial(self.rule, gram)

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
        if self.by == "norm":
            inverse = inverse_norms(gram)
            shown = correlations(gram, inverse)
        else:
            if losses is None:
                raise TypeError("Normalized(by='loss') needs the signal 'losses', and was called without")
            there = has_gradient(gram) > 0
            # not `losses > 0`, by which a NaN would be left out instead of reaching the weights
            active = there & xp.logical_not(losses == 0)
            inverse = xp.where(active, 1 / xp.where(active, losses, 1), 0)
            shown = xp.where(active[:, None] & active[None, :], gram, 0) * inverse[:, None] * inverse[None, :]
            inverse = xp.where(xp.any(there & (losses < 0)), xp.nan, inverse)
        given = given_signals(names, losses, step, signals)
        weights, after = self.inner.decide(self.rule, shown, state, given)
        return weights * inverse, after
