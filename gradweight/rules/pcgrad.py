"""PCGrad: project each gradient off those that it conflicts with, one after the other, in random order."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import check_whole
from ._solvers.arrays import at_most, counting, identity, like, total
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.draws import permutations
from ._solvers.loops import compiled_once
from ._solvers.rounding import stands_out, what_stands_out


@dataclass(frozen=True)
class PCGrad:
    """Gradient surgery: the sum of gradients from which conflicting components have been removed.

    For each i, ``g_i' = g_i``; then for every j != i in random order, if ``<g_i', g_j> < 0``,
    ``g_i' <- g_i' - <g_i', g_j>/|g_j|^2 g_j``. The direction is ``sum_i g_i'``. Each g_i' is a combination of the
    gradients, ``g_i' = sum_j V[i, j] g_j``, so all of that is arithmetic on the rows of V, whose inner products with
    g_j are ``(V G)[:, j]``; the weights are the column sums of V: (m, m) -> (m,), each at least 1 if all count.

    Two losses come out without conflict, whatever the order. From three on, a projection can bring back a conflict
    that an earlier one removed, and the direction may conflict. Where nothing is left of a gradient but rounding errors
    it does not count: one of two that are opposed. A loss whose gradient is exactly zero is left out.

    Args:
        seed: of the random orders. They are a function of the seed and the step: the same on every process, and
            after a resume.

    Signals:
        step: number of the step, supplied automatically.

    Example:
        >>> import numpy as np
        >>> PCGrad()(np.array([[4.0, -2.0], [-2.0, 1.0]]) + np.diag([0.0, 3.0]), step=0)
        array([1.5, 1.5])

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn. Gradient Surgery for Multi-Task Learning. NeurIPS 2020,
        arXiv:2001.06782, Algorithm 1. The authors' code divides the sum by m in some versions; the paper does not.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("PCGrad", "seed", self.seed, 0)

    def __call__(self, gram: Array, /, *, step: Array) -> Array:
        xp = array_namespace(gram)
        m = gram.shape[-1]
        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        eye = identity(gram)
        # row i of `surgery`: the coordinates of g_i'/|g_i| along the unit gradients, and their products with those
        surgery, products = eye, cosine
        index = xp.arange(m, **like(gram))
        # of two losses each has one other
        order = permutations(self.seed, step, m, m, gram) if m > 2 else xp.flip(counting(gram, m))[:, None]
        for k in range(m if m > 2 else m - 1):
            other = xp.astype(order[:, k, None] == index, gram.dtype) * (1 - eye)
            rows = xp.take(cosine, order[:, k], axis=0)
            surgery, products = _freed_of(other, rows, surgery, products)
        # what rounding leaves of a gradient has any direction, and so has what it leaves of their sum
        surgery = xp.where(stands_out(cosine, surgery, surgery)[:, None], surgery, 0)
        active = inverse_norm > 0
        length = xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0)
        return what_stands_out(cosine, xp.sum(length[:, None] * surgery, axis=0)) * inverse_norm


@compiled_once
def _freed_of(other: Array, rows: Array, surgery: Array, products: Array) -> tuple[Array, Array]:
    conflict = at_most(total(products * other), 0)[:, None]
    return surgery - conflict * other, products - conflict * rows
