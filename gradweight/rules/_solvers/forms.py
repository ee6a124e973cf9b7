"""A solver's two forms: array code of fixed length, and NumPy on the host, which may look at the numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, ParamSpec

import numpy as np

from ...rule import Array

P = ParamSpec("P")


class TwoForms(Generic[P]):
    """A solver in array code, whose problems in NumPy arrays go to ``host`` first.

    That form calls LAPACK, ends its loops when they have converged and works in double precision. What it cannot solve
    to rounding errors, which are problems with dependent gradients mostly, it returns None for, and the array code,
    which was made for those, solves it.

    Args:
        array: the solver in array code, of the first form of every problem that is no NumPy array.
        host: the same function of NumPy arrays, or None for a problem.
    """

    def __init__(self, array: Callable[P, Array], host: Callable[P, Array | None]) -> None:
        functools.update_wrapper(self, array)
        self.array, self.host = array, host

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Array:
        # a sum is half the price of looking at each entry
        if isinstance(args[0], np.ndarray) and math.isfinite(np.add.reduce(args[0], axis=None)):
            try:
                solved = self.host(*args, **kwargs)
            except np.linalg.LinAlgError:
                solved = None
            if solved is not None:
                return solved
        return self.array(*args, **kwargs)


def host_form(host: Callable[P, Any]) -> Callable[[Callable[P, Array]], TwoForms[P]]:
    """Decorate a solver in array code with its form for NumPy arrays."""
    return lambda array: TwoForms(array, host)
