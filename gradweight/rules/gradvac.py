"""GradVac: pull each pair of gradients towards the angle that it usually has."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, State, array_namespace
from ._arguments import check_range, check_whole
from ._solvers.arrays import at_least, at_most, identity, like, total
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.draws import permutations
from ._solvers.loops import compiled_once
from ._solvers.rounding import rounding_of, stands_out, what_stands_out


@dataclass(frozen=True)
class GradVac:
    """Gradient vaccine: PCGrad with a target for each cosine, the moving average of what it has been.

    For each i, ``g_i' = g_i``; then for every j != i in random order, with ``phi = cos(g_i', g_j)`` and the target
    ``phi^[i, j]``, if ``phi < phi^`` then

    ``g_i' <- g_i' + |g_i'| (phi^ sqrt(1 - phi^2) - phi sqrt(1 - phi^^2)) / (|g_j| sqrt(1 - phi^^2)) g_j``,

    after which their cosine is ``phi^``; and ``phi^ <- (1 - beta) phi^ + beta phi``. The direction is
    ``sum_i g_i'``. With targets 0, which is where they start, this is PCGrad. (m, m) -> (m,), each
    weight at least 1 if all count. A g_i' of which only rounding errors are left counts as 0, so that nothing is left
    of two opposed gradients.

    A loss whose gradient is exactly zero is left out, and its targets stay as they were; so do those of a g_i' that
    has come to count as 0. A target is used up to the cosine 1 - 1e-6 only: at 1 the formula divides by zero.

    Args:
        beta: how fast the targets follow, in [0, 1].
        seed: of the random orders, which are a function of the seed and the step.

    Signals:
        step: number of the step, supplied automatically.

    Raises:
        ValueError: beta out of its range.

    Example:
        >>> import numpy as np
        >>> rule, gram = GradVac(), np.array([[4.0, -2.0], [-2.0, 4.0]])
        >>> weights, state = rule.update(gram, rule.init(gram), step=0)
        >>> weights, state["targets"]
        (array([1.5, 1.5]), array([[ 0.   , -0.005],
               [-0.005,  0.   ]]))

    Reference:
        Wang, Tsvetkov, Firat, Cao. Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
        Multilingual Models. ICLR 2021, arXiv:2010.05874; beta as in its experiments.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    beta: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("GradVac", "seed", self.seed, 0)
        check_range("GradVac", "beta", self.beta, 0, 1)

    def init(self, gram: Array) -> State:
        return {"targets": 0 * gram}

    def update(self, gram: Array, state: State, /, *, step: Array) -> tuple[Array, State]:
        xp = array_namespace(gram)
        m = gram.shape[-1]
        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        eye = identity(gram)
        targets = state["targets"]
        # row i: the coordinates of g_i'/|g_i| along the unit gradients, and its products with those
        vaccinated, products = eye, cosine
        index = xp.arange(m, **like(gram))
        order = permutations(self.seed, step, m, m, gram)
        for k in range(m):
            other = xp.astype(order[:, k, None] == index, gram.dtype) * (1 - eye) * active * active[:, None]
            rows = xp.take(cosine, order[:, k], axis=0)
            vaccinated, products, targets = _vaccine(other, rows, vaccinated, products, targets, self.beta)
        # what rounding leaves of a gradient has any direction, and so has what it leaves of their sum
        vaccinated = xp.where(stands_out(cosine, vaccinated, vaccinated)[:, None], vaccinated, 0)
        length = xp.where(active > 0, 1 / xp.where(active > 0, inverse_norm, 1), 0)
        combined = what_stands_out(cosine, xp.sum(length[:, None] * vaccinated, axis=0))
        return combined * inverse_norm, {"targets": targets}


@compiled_once
def _vaccine(
    other: Array, rows: Array, vaccinated: Array, products: Array, targets: Array, beta: float
) -> tuple[Array, Array, Array]:
    xp = array_namespace(products)
    squared = total(products * vaccinated)
    length = xp.sqrt(xp.where(squared > 0, squared, 1))
    phi = at_most(at_least(total(products * other) / length, -1), 1)
    target = at_most(at_least(total(targets * other), -1), 1 - 1e-6)
    sine, target_sine = _sine(phi), _sine(target)
    added = length * (target * sine / target_sine - phi)
    # what rounding leaves of a gradient that has cancelled has a cosine, too
    left = squared > rounding_of(products, vaccinated) * total(xp.abs(vaccinated))
    added = xp.where((phi < target) & left, added, 0)[:, None]
    moved = xp.where(left[:, None], phi[:, None] - targets, 0)
    return vaccinated + added * other, products + added * rows, targets + beta * moved * other


def _sine(cosine: Array) -> Array:
    # the floor stands for the sines that the clipped targets leave out, and keeps the derivative finite
    xp = array_namespace(cosine)
    return xp.sqrt(at_least(1 - cosine * cosine, 1e-12))
