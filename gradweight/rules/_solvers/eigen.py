"""Eigenvalues of small symmetric matrices in array code: `torch.linalg.eigh` reads its status back to the host."""

from __future__ import annotations

from ...rule import Array, array_namespace
from .arrays import at_least, at_most, counting, identity
from .forms import host_form
from .host import eigen as host
from .loops import compiled_once, repeated


@host_form(host.eigh)
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, in no order, and eigenvectors in the columns of V: (m, m) -> (m,), (m, m).

    Jacobi's method, m/2 rotations at a time, in rounds of about 30 array operations: 2 + m sweeps, at most 10, of
    m - 1 rounds (m if odd), which leave rounding errors for m up to 16 (the tests assert it). That is 18 rounds for
    m = 4 and 150 for m = 16. Small eigenvalues of a matrix D C D, D diagonal, come out right relative to themselves
    if C is well conditioned, however different the entries of D: what makes Jacobi's method the one for gradients of
    very different norms.
    """
    xp = array_namespace(matrix)
    m = matrix.shape[-1]
    unit = identity(matrix)
    # in each round, the variable in place i is rotated with the one in place m - 1 - i; then all move on by one
    first = counting(matrix, m) < m // 2
    in_the_middle = unit * xp.flip(unit, axis=-1)
    matrix, vectors = repeated(
        lambda state: _rotations(*state, unit, in_the_middle, first),
        min(2 + m, 10) * (m - 1 if m % 2 == 0 else m),
        (matrix, unit),
    )
    return xp.linalg.diagonal(matrix), vectors


@compiled_once
def _rotations(matrix: Array, vectors: Array, unit: Array, in_the_middle: Array, first: Array) -> tuple[Array, Array]:
    xp = array_namespace(matrix)
    info = xp.finfo(matrix.dtype)
    diagonal = xp.linalg.diagonal(matrix)
    partner = xp.flip(diagonal, axis=-1)
    coupling = xp.sum(matrix * xp.flip(unit, axis=-1), axis=-1)
    # two roundings of one number: partners that disagree about it turn by different angles, and V stops being
    # orthogonal
    coupling = (coupling + xp.flip(coupling, axis=-1)) / 2
    # tan of the angle, the smaller root of t**2 + 2 tau t = 1, tau = (partner - diagonal) / (2 coupling)
    coupled = xp.abs(coupling) > info.smallest_normal / info.eps
    # clipped where t = 1 / (2 tau) is nothing, because tau squared would overflow
    tau = at_most(at_least((partner - diagonal) / xp.where(coupled, 2 * coupling, 1), -(info.eps**-2)), info.eps**-2)
    sign = xp.where((tau > 0) | ((tau == 0) & first), 1, -1)
    tan = xp.where(coupled, sign / (xp.abs(tau) + xp.sqrt(1 + tau**2)), 0)
    tan = tan - xp.sum(in_the_middle * tan[None, :], axis=-1)
    cos = 1 / xp.sqrt(1 + tan**2)
    sin = tan * cos
    matrix = cos[:, None] * matrix - sin[:, None] * xp.flip(matrix, axis=-2)
    matrix = matrix * cos - xp.flip(matrix, axis=-1) * sin
    vectors = vectors * cos - xp.flip(vectors, axis=-1) * sin
    vectors = _moved_on(vectors, -1)
    matrix = _moved_on(_moved_on(matrix, -1), -2)
    return matrix, vectors


def _moved_on(array: Array, axis: int) -> Array:
    """The places along an axis moved on by one: all of an odd number, all but the first of an even one."""
    xp = array_namespace(array)
    array = array if axis == -1 else xp.matrix_transpose(array)
    n = array.shape[-1]
    start = 0 if n % 2 else 1
    array = xp.concat([array[..., :start], array[..., n - 1 :], array[..., start : n - 1]], axis=-1)
    return array if axis == -1 else xp.matrix_transpose(array)
