"""The simplex of weights at least 0 that add up to 1: where to start on it, and the projection on it."""

from __future__ import annotations

from ...rule import Array, State, array_namespace
from .arrays import at_least, counting, matvec
from .forms import host_form
from .host import simplex as host
from .loops import compiled_once, repeated


def equal_shares(gram: Array) -> State:
    """The state ``w``, 1/m each, of a rule that moves its weights on the simplex: (m, m) -> (m,)."""
    return {"w": 0 * array_namespace(gram).linalg.diagonal(gram) + 1 / gram.shape[-1]}


@host_form(host.simplex_projection)
def simplex_projection(values: Array, active: Array) -> Array:
    """The nearest point with ``w >= 0, sum w = 1`` and w zero where not active: (m,), (m,) of truth values -> (m,).

    ``w_i = max(values_i - theta, 0)``, theta the largest of ``(sum of the k largest - 1)/k`` over all k. Zeros if
    nothing is active.
    """
    xp = array_namespace(values)
    # only differences matter, and those to the largest keep their digits where values are huge
    largest = xp.max(xp.where(active, values, -xp.inf))
    shifted = xp.where(active, values - xp.where(xp.any(active), largest, 0), -xp.inf)
    # sorted, and not compared with each other: a compiler that computes one number in two places may round it in two
    # ways, and then it is not even at least itself
    ordered, index = xp.sort(shifted, axis=-1, descending=True), counting(values, values.shape[-1])
    total = xp.sum(xp.where(index[None, :] <= index[:, None], ordered[None, :], 0), axis=-1)
    theta = xp.max((total - 1) / (index + 1))
    return xp.where(active, at_least(shifted - xp.where(xp.any(active), theta, 0), 0), 0)


@host_form(host.projected_descent)
def projected_descent(
    a: Array, w: Array, pull: Array, lr: float, momentum: float, iterations: int, active: Array
) -> Array:
    """``v = momentum v + A (w + pull)``, ``w = simplex(w - lr v)``, so many times: (m, m), 2 (m,) -> (m,)."""
    return repeated(lambda state: _descent(a, *state, momentum, pull, lr, active), iterations, (w, 0 * w))[0]


@compiled_once
def _descent(
    a: Array, w: Array, velocity: Array, momentum: float, pull: Array, lr: float, active: Array
) -> tuple[Array, Array]:
    velocity = momentum * velocity + matvec(a, w + pull)
    return simplex_projection(w - lr * velocity, active), velocity
