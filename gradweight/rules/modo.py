"""MoDo: one stochastic step towards MGDA's weights each time."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, Names, State
from ._arguments import check_positive, check_range
from ._solvers.arrays import matvec
from ._solvers.correlations import inverse_norms
from ._solvers.simplex import equal_shares, simplex_projection


@dataclass(frozen=True)
class MoDo:
    """Weights that take one projected gradient step towards the shortest convex combination of the gradients.

    ``w = simplex(w' - gamma (G w' + rho w'))`` from the weights w' of the last step; (m, m) -> (m,). Where the
    gradients stand still the weights converge to those of `MGDA` for rho = 0 and gamma below 2/|G|, slowly for small
    gamma, and that is the point: weights that lag average over the noise of the batches.

    State: ``w``, (m,), 1/m at first. Opposed gradients: finite weights as always, with no claim on the direction. A
    loss whose gradient is exactly zero is left out of the simplex; when it comes back, its w starts from 0.

    Args:
        gamma: learning rate of the weights, above 0, in units of 1/|g|^2: scale it with your gradients.
        rho: pull towards equal weights, at least 0.

    Raises:
        ValueError: an argument outside of its range.

    Signals:
        cross: (m, m), ``cross[i, j]`` the inner product of loss i's gradient on one batch and loss j's on another,
            independent one; None: the Gram matrix. The paper's double sampling, which makes the step unbiased.

    Example:
        >>> import numpy as np
        >>> rule, gram = MoDo(gamma=0.1, rho=0.0), np.array([[1.0, 0.0], [0.0, 4.0]])
        >>> state = rule.init(gram)
        >>> weights, state = rule.update(gram, state)
        >>> weights
        array([0.575, 0.425])

    Reference:
        Chen, Fernando, Ying, Chen. Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
        Conflict-Avoidance. NeurIPS 2023, JMLR 2024, arXiv:2305.20057.

    Deviations:
        Without `cross` one batch gives both factors of G: simple, but biased towards losses whose gradients are
        noisy. The defaults are those of the authors' code.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    gamma: float = 1e-3
    rho: float = 0.1

    def __post_init__(self) -> None:
        check_positive("MoDo", "gamma", self.gamma)
        check_range("MoDo", "rho", self.rho, 0)

    def init(self, gram: Array) -> State:
        return equal_shares(gram)

    def update(
        self, gram: Array, state: State, /, *, names: Names = None, losses: Array = None, cross: Array = None
    ) -> tuple[Array, State]:
        active = inverse_norms(gram) > 0
        w = simplex_projection(state["w"], active)
        gradient = matvec(gram if cross is None else cross, w) + self.rho * w
        w = simplex_projection(w - self.gamma * gradient, active)
        return w, {"w": w}
