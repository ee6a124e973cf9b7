"""IMTL-L: every loss scaled to the same size by a factor that is learnt along."""

import math
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_number, check_range
from ._shares import followed, has_gradient


@dataclass(frozen=True)
class IMTLL:
    """Impartial learning on losses: minimise ``sum_i e^(s_i) L_i - s_i`` over the scales as well.

    ``w_i = e^(s_i)``; (m, m) -> (m,). At the minimum every scaled loss is 1, ``w_i = 1/L_i``. The scales follow the
    gradient flow of that objective for a time ``lr`` per step, which has a closed form: with ``v_i = 1/w_i``,

    ``v_i <- L_i + (v_i - L_i) exp(-lr)``,

    a moving average of the loss. (So `Uncertainty` with twice the learning rate gives the same weights, halved.)

    Needs no gradients, so that a step is one backward: see `gradweight.rule`. Given a Gram matrix all the same, it
    leaves out a loss whose gradient is exactly zero, which keeps its scale. Losses below 0, for which the objective
    has no minimum, count as 0.

    Args:
        lr: learning rate of the scales, > 0: about 1/lr steps are averaged over; ``math.inf``: ``w_i = 1/L_i``.
        initial: the ``v_i`` to start from, > 0.

    Signals:
        losses: supplied automatically; positive.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = IMTLL(lr=math.inf), np.eye(2)
        >>> rule.update(gram, rule.init(gram), losses=np.array([0.5, 5.0]))[0]
        array([2. , 0.2])

    Reference:
        Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang. Towards Impartial Multi-task Learning. ICLR 2021, Section 3.2
        (loss balance), with base e. The paper leaves the scales to the optimizer of the network; here they have their
        own learning rate, follow the flow exactly, and are updated before they are used.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    needs_gradients: ClassVar[bool] = False
    lr: float = 0.01
    initial: float = 1.0

    def __post_init__(self) -> None:
        check_number("IMTLL", "lr", self.lr)
        if not self.lr > 0:
            raise ValueError(f"IMTLL needs lr > 0; got {self.lr}")
        check_range("IMTLL", "initial", self.initial, math.ulp(0))

    def init(self, gram: Array) -> State:
        return {"sizes": 0 * array_namespace(gram).linalg.diagonal(gram) + self.initial}

    def update(self, gram: Array, state: State, /, *, losses: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        active = has_gradient(gram)
        new = followed(state["sizes"], losses, active, self.lr)
        return xp.where(new > 0, active / xp.where(new > 0, new, 1), 0), {"sizes": new}
