"""Loops of fixed length whose body ``torch.compile`` and ``jax.jit`` compile once instead of once for each turn."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ...rule import Array, is_tensor

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def repeated(body: Callable[[S], S], times: int, state: S) -> S:
    """``body(body(... body(state)))``, ``times`` calls: a Python loop, or JAX's own inside of a transform of JAX.

    ``jax.jit`` compiles every turn of a Python loop, and merges it with the ones before, which takes half a minute for
    thirty turns and many minutes where they are long. A loop of its own it compiles once. Outside of a transform it
    would compile it again at every call, which is why that is a Python loop, too.

    Args:
        body: a pure function, from arrays to arrays of the same shapes and dtypes; one that should be a region of
            its own under ``torch.compile`` is `compiled_once`.
        times: at least 1.
        state: an array, or a tuple of them.
    """
    arrays = state if isinstance(state, tuple) else (state,)
    if any(traced_by_jax(array) for array in arrays):
        looped: S = sys.modules["jax"].lax.fori_loop(0, times, lambda _, state: body(state), state)
        return looped
    for _ in range(times):
        state = body(state)
    return state


def traced_by_jax(array: Array) -> bool:
    """Whether this is an array of JAX without a value, inside of one of its transforms."""
    jax = None if is_tensor(array) else sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def compiled_once(body: Callable[P, R]) -> Callable[P, R]:
    """The same function; under ``torch.compile`` all its calls share one compiled region.

    Without it a solver of thirty steps is thirty copies of its step, which compile for minutes. Everywhere else, in
    eager mode, NumPy, JAX and inside of the transforms of `torch.func`, a call is a plain call.

    Args:
        body: a pure function of arrays, whose results are new arrays and not views of its arguments.
    """

    @functools.wraps(body)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        torch = sys.modules.get("torch")
        if torch is not None and torch.compiler.is_dynamo_compiling():
            from .regions import region, transformed

            if not transformed():  # regions have no rule for vmap and grad
                result: R = region(body, *args, **kwargs)[0]
                return result
        return body(*args, **kwargs)

    return call
