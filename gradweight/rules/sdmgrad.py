"""SDMGrad: a few stochastic steps towards MGDA's weights each time, held near the mean gradient."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, Names, State, array_namespace
from ._arguments import check_positive, check_range, check_whole
from ._solvers.arrays import at_least
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.rounding import what_stands_out
from ._solvers.simplex import equal_shares, projected_descent, simplex_projection


@dataclass(frozen=True)
class SDMGrad:
    """Weights that follow the minimiser of ``|sum_i w_i g_i + lam g_0|^2`` over the simplex, g_0 the mean gradient.

    From the weights w of the last step, `iterations` times: ``v = momentum v + A (w + lam/m)``,
    ``w = simplex(w - lr v)``, with ``A = G / s^2`` and s the mean of the gradient norms; (m, m) -> (m,). The weights
    returned are ``(w + lam/m) / (1 + lam)``: at least the share lam/(1 + lam) of the direction is the mean gradient.

    State: ``w``, (m,), 1/m at first. With the defaults ``lr`` is far above what would converge: on one and the same
    G, w jumps from corner to corner, and in training it is the steps' average that counts. A rounding error grows
    ninefold with each iteration, so that where it jumps may depend on the order of the losses. Opposed gradients:
    finite weights as always, with no claim on the direction; where it is 0 within rounding errors all are 0. A loss
    whose gradient is exactly zero is left out, of the mean and of the simplex; when it comes back, its w starts from 0.

    Args:
        lam: weight of the mean gradient, at least 0. The authors' default is 0.6; their experiments use 0.3.
        lr: learning rate of the weights, above 0.
        momentum: in [0, 1).
        iterations: steps of the weights for each step of the parameters, at least 1.

    Raises:
        ValueError: an argument outside of its range.

    Signals:
        cross: (m, m), ``cross[i, j]`` the inner product of loss i's gradient on one batch and loss j's on another,
            independent one; None: the Gram matrix. The paper's double sampling, which makes A unbiased.

    Example:
        >>> import numpy as np
        >>> rule, gram = SDMGrad(lr=0.1), np.array([[1.0, 0.0], [0.0, 4.0]])
        >>> weights, state = rule.update(gram, rule.init(gram))
        >>> weights.round(3)
        array([0.8, 0.2])

    Reference:
        Xiao, Ban, Ji. Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms.
        NeurIPS 2023, arXiv:2305.18409; the normalisation is in section 6.1.

    Deviations:
        No 1e-8 is added to the squared norms, which would stop the weights where gradients are small. Without
        `cross` one batch gives both factors of A, as in the paper's deterministic setting; the third batch, for the
        direction, is the one that `backward` is called with.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    lam: float = 0.3
    lr: float = 10.0
    momentum: float = 0.5
    iterations: int = 20

    def init(self, gram: Array) -> State:
        return equal_shares(gram)

    def __post_init__(self) -> None:
        check_range("SDMGrad", "lam", self.lam, 0)
        check_positive("SDMGrad", "lr", self.lr)
        check_range("SDMGrad", "momentum", self.momentum, 0, 1, below=True)
        check_whole("SDMGrad", "iterations", self.iterations, 1)

    def update(
        self, gram: Array, state: State, /, *, names: Names = None, losses: Array = None, cross: Array = None
    ) -> tuple[Array, State]:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = inverse_norm > 0
        one = xp.astype(active, gram.dtype)
        count = at_least(xp.sum(one), 1)
        mean = one / count
        scale = xp.sum(xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0)) / count
        scale = xp.where(scale > 0, scale, 1)
        a = (gram if cross is None else cross) / scale / scale

        w = simplex_projection(state["w"], active)
        w = projected_descent(a, w, self.lam * mean, self.lr, self.momentum, self.iterations, active)
        weights = (w + self.lam * mean) / (1 + self.lam)
        norm = xp.where(active, 1 / xp.where(active, inverse_norm, 1), 0) / scale
        some = xp.any(what_stands_out(correlations(gram, inverse_norm), weights * norm) != 0)
        return xp.where(some, weights, 0), {"w": w}
