"""Random weights: the litmus test that every other method should pass."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array
from ._arguments import check_whole
from ._shares import has_gradient, softmax
from ._solvers.draws import normals


@dataclass(frozen=True)
class Random:
    """Random loss weighting: the softmax of standard normal numbers, drawn anew at each step.

    ``w = softmax(z), z_i ~ N(0, 1)`` over the losses whose gradient is not exactly zero; (m, m) -> (m,), of sum 1.
    A method that does no better than this has learnt nothing about the losses.

    Args:
        seed: of the draws, which are a function of the seed and the step: the same on every process, and after a
            resume.

    Signals:
        step: number of the step, supplied automatically.

    Example:
        >>> import numpy as np
        >>> weights = Random()(np.eye(3), step=0)
        >>> bool(np.all(weights > 0)), round(float(weights.sum()), 12)
        (True, 1.0)

    Reference:
        Lin, Ye, Zhang, Tsang. Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning.
        TMLR 2022, arXiv:2111.10603. Weights on losses and weights on gradients are the same here.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("Random", "seed", self.seed, 0)

    def __call__(self, gram: Array, /, *, step: Array) -> Array:
        return softmax(normals(self.seed, step, tuple(gram.shape[-1:]), gram), has_gradient(gram))
