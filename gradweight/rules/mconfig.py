"""M-ConFIG: ConFIG's direction of the losses' averaged gradients, for one backward pass a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, Names, State, array_namespace
from ._arguments import check_range
from ._solvers.arrays import at_least
from .config import ConFIG


@dataclass(frozen=True)
class MConFIG:
    """`ConFIG` on a moving average of each loss's gradient, of which one is renewed each step and the others wait.

    ``m_i <- beta m_i + (1 - beta) g_i`` for the loss that is due, and ``d = ConFIG(m_1 / c_1, ..., m_m / c_m)`` with
    ``c_i = 1 - beta^t_i``, t_i how often loss i was due; (m, m) -> (m,), the Gram matrix and the weights being those of
    the corrected averages m_i / c_i. With ``opt.backward(losses, due=name)``, round robin, only the loss that is due
    need be computed: a step costs one backward pass, and one pass over the m averages. Without ``due`` all are.

    A loss that was never due is left out, as are those whose average is exactly zero.

    With ``for_adam``, the base optimizer being ``Adam(betas=(beta, ...))``, what is written to ``.grad`` is the
    gradient of which d is Adam's first moment, ``d_t + (n_t - 1) (d_t - d_(t-1))`` with ``n_t = 1 + beta n_(t-1)``,
    n_0 = 0: then Adam divides d by the root of the second moment of that, as the paper does. The direction of the last
    step is kept for it, as large as the parameters. Where gradients are clipped, d is no longer what is followed.

    Args:
        beta: decay of the averages, in [0, 1).
        for_adam: see above.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import torch
        >>> from gradweight import MultiObjectiveGradient
        >>> w = torch.zeros(2, requires_grad=True)
        >>> opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.0), MConFIG())
        >>> for due in ("data", "pde"):
        ...     opt.zero_grad()
        ...     seen = opt.backward({"data": 2 * w[0], "pde": 4 * w[1]}, due=due)
        ...     opt.step()
        ...     print(w.grad, seen.norms)
        tensor([2., 0.]) tensor([2., 0.])
        tensor([3., 3.]) tensor([2., 4.])

    Reference:
        Liu, Chu, Thuerey. ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks. ICLR 2025,
        arXiv:2408.11104, Algorithm 1.

    Deviations:
        Without ``for_adam`` the step from d is the base optimizer's: SGD is the method without its second moment, and
        ``Adam(betas=(0, 0.999))`` divides by the second moment of d itself. The authors' code takes no step before
        every loss was due once; here the losses that were due decide.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    beta: float = 0.9
    for_adam: bool = False

    def __post_init__(self) -> None:
        check_range("MConFIG", "beta", self.beta, 0, 1, below=True)

    def init(self, gram: Array) -> State:
        return {"count": 0 * array_namespace(gram).linalg.diagonal(gram), "steps": 0 * gram[..., 0, 0]}

    def average(self, state: State, /, *, due: Array) -> tuple[Array, Array, State]:
        xp = array_namespace(due)
        # of the corrected average what is new has the share (1 - beta) / c_i: all the first time, 1 - beta in the end
        count = xp.where(due > 0, self.beta * state["count"] + 1, state["count"])
        new = 1 / at_least(count, 1)
        return 1 - new, new, state | {"count": count}

    @property
    def extrapolate(self) -> Callable[[State], Array] | None:
        """How far the gradient lies ahead of the direction; None where the direction is what is written."""
        return _ahead if self.for_adam else None

    def update(
        self, gram: Array, state: State, /, *, names: Names = None, losses: Array | None = None
    ) -> tuple[Array, State]:
        return ConFIG()(gram), state | {"steps": self.beta * state["steps"] + 1}


def _ahead(state: State) -> Array:
    return state["steps"] - 1
