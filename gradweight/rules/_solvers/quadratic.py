"""Quadratic programs that the rules share: exact for few losses, of fixed length for many, no host synchronisation.

All are the minimisation of ``y' A y / 2 + c' y`` over ``y >= 0``. Up to 8 variables it is done by trying every set of
free variables ("face") as one batch of linear systems; beyond that by Lawson and Hanson's active-set method, cut off
after a fixed number of steps.

Products are sums of elementwise products: matrix multiplication may be set to TF32, or to bfloat16 by autocast, for
the network's sake, and eight digits less would undo everything here.
"""

from __future__ import annotations

from ...rule import Array, array_namespace
from .active_sets import entering, up_to_the_boundary
from .arrays import at_least, counting, identity, matvec
from .forms import host_form
from .host import quadratic as host
from .linear import solve
from .loops import compiled_once, repeated

MOST_FACES_OF = 8


@host_form(host.nonnegative_minimiser)
def nonnegative_minimiser(matrix: Array, linear: Array) -> Array:
    """The minimiser of ``y' A y / 2 + c' y`` over ``y >= 0``, for each row c: (n, n), (r, n) -> (r, n).

    For n up to 8 it is the solution on one face, that with the least optimality residual ``max_i |min(y_i, s_i)|``,
    s = A y + c. For larger n it is where 3/2 n steps of Lawson and Hanson's method end. None of them raises the
    objective, and about as many are needed as variables end up above 0; where they are cut off, or end in rounding
    errors, `optimality_residual` bounds the error: with residual h,
    ``|V (y - y*)|^2 <= h sum_i (y_i + y*_i + s_i + s*_i)`` for A = V'V. The tests hold h below
    ``1e-13 (1 + sum_i y_i)`` for up to 16 variables, and below 1e-8 for nearly opposed gradients.

    Args:
        matrix: A, symmetric positive semi-definite, diagonal entries between 1 and 2, or 0 with the row and column.
        linear: rows c in the range of A, with entries of the size of 1.
    """
    xp = array_namespace(matrix)
    if matrix.shape[-1] > MOST_FACES_OF:
        return _lawson_hanson(matrix, linear)
    faces, inner = all_faces(matrix), regularised(matrix)
    candidates = change_on_face(inner, faces, linear)
    best = least(optimality_residual(matrix, linear, candidates))
    y = at_least(xp.sum(candidates * best[:, :, None], axis=0), 0)
    free = xp.sum(faces[:, None, :] * best[:, :, None], axis=0)
    slack = matvec(matrix, y) + linear
    return up_to_the_boundary(y, change_on_face(inner, free, slack[:, None, :])[:, 0, :], free)[0]


def optimality_residual(matrix: Array, linear: Array, y: Array) -> Array:
    """``max_i |min(y_i, (A y + c)_i)|``, zero exactly at the minimiser: (n, n), (r, n), (..., r, n) -> (..., r)."""
    xp = array_namespace(matrix)
    return xp.max(xp.abs(xp.minimum(y, matvec(matrix, y) + linear)), axis=-1)


def all_faces(matrix: Array) -> Array:
    """Each of the 2**n sets of n variables as a row of ones and zeros: (n, n) -> (2**n, n)."""
    xp = array_namespace(matrix)
    n = matrix.shape[-1]
    return xp.astype(counting(matrix, 2**n)[:, None] // 2 ** counting(matrix, n) % 2, matrix.dtype)


def least(values: Array) -> Array:
    """A one in each column where it is least, zeros elsewhere: (f, r) -> (f, r). Not a number counts as largest."""
    xp = array_namespace(values)
    values = xp.where(xp.isnan(values), xp.inf, values)
    index = counting(values, values.shape[0])
    return xp.astype(index[:, None] == xp.argmin(values, axis=0)[None, :], values.dtype)


def regularised(matrix: Array) -> Array:
    """A + 4 n eps - 1, the part of the systems of `change_on_face` beside the identity: (n, n) -> (n, n)."""
    n, eps = matrix.shape[-1], array_namespace(matrix).finfo(matrix.dtype).eps
    return matrix + (4 * n * eps - 1) * identity(matrix)


def change_on_face(inner: Array, free: Array, slack: Array) -> Array:
    """From some y to the minimiser on a face: ``-(A_ff)^-1 s_f`` for each row s, 0 where ``free`` is.

    (n, n), (..., n), (..., r, n) -> (..., r, n). A is regularised by its rounding errors, 4 n eps, so that dependent
    gradients leave no singular system. What that changes, a second step mends.

    Args:
        inner: `regularised` A.
        free: ones and zeros; y is 0 where it is.
        slack: rows ``s = A y + c``, c in the range of A.
    """
    # rows of the identity where y stays 0, so that the columns beside them multiply zeros, which rounding may turn into
    # -1e-19, a step towards the boundary
    free_rows = free[..., None, :]
    return free_rows * solve(identity(inner) + free[..., :, None] * inner, -free_rows * slack)


def _lawson_hanson(matrix: Array, linear: Array) -> Array:
    zero, inner = 0 * linear, regularised(matrix)
    state = (zero, linear, zero, zero[:, :1] == 0)
    turns = (3 * matrix.shape[-1] + 3) // 4
    return repeated(lambda state: _two_steps(matrix, inner, linear, *state), turns, state)[0]


@compiled_once
def _two_steps(
    matrix: Array, inner: Array, linear: Array, y: Array, slack: Array, free: Array, whole: Array
) -> tuple[Array, Array, Array, Array]:
    xp = array_namespace(matrix)
    # many at once is faster, one at a time cannot be in vain
    for several in (True, False):
        rounding = 4 * matrix.shape[-1] * xp.finfo(matrix.dtype).eps * (1 + xp.sum(y, axis=-1))[:, None]
        free = entering(slack, free, whole, rounding, several)
        change = change_on_face(inner, free, slack[:, None, :])[:, 0, :]
        y, free, whole = up_to_the_boundary(y, change, free)
        slack = matvec(matrix, y) + linear
    return y, slack, free, whole
