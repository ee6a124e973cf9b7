"""Systems of linear equations: of fixed length or by a factorisation, without a host sync."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...rule import Array, array_namespace, is_tensor
from .arrays import at_least, counting, identity, matvec
from .forms import host_form
from .host import linear as host
from .loops import compiled_once, traced_by_jax

if TYPE_CHECKING:
    from torch import Tensor


@host_form(host.solve_psd)
def solve_psd(matrix: Array, rhs: Array, scale: float | None = None) -> Array:
    """Some x with ``matrix @ x = rhs``, for positive semi-definite ``matrix`` and ``rhs`` in its range.

    One conjugate direction after the other, and one step of iterative refinement. Singular systems are solved on the
    rows that were picked first; the other entries of x stay 0.

    Args:
        matrix: (..., n, n), symmetric positive semi-definite up to rounding.
        rhs: (..., n).
        scale: as for `conjugate_directions`.
    """
    directions, inverse_lengths = conjugate_directions(matrix, scale)
    transposed = array_namespace(matrix).matrix_transpose(directions)

    # applied factor by factor: the product of a direction that is mostly rounding would drown the others
    def apply(vector: Array) -> Array:
        return matvec(transposed, inverse_lengths * matvec(directions, vector))

    x = apply(rhs)
    return x + apply(rhs - matvec(matrix, x))


@host_form(host.shortest_affine)
def shortest_affine(cosine: Array, active: Array) -> Array:
    """The a of sum n, the number of active gradients, whose ``sum_i a_i u_i`` is shortest: (m, m), (m,) -> (m,).

    Of dependent gradients the vector is unique all the same, and a is not.

    Args:
        cosine: correlations; the rows of zero gradients are empty.
        active: ones, and zeros for zero gradients.
    """
    # a = 1 + P y, where P removes the mean over the active gradients and so keeps the sum of a
    xp = array_namespace(cosine)
    centred, centred_mean, count = _centred(cosine, active)
    # scale: gradients that are all parallel leave nothing but rounding of cosines, which are 1
    y = active * solve_psd(centred, -count * centred_mean, scale=1.0)
    return active + y - active * xp.sum(y) / count


@host_form(host.evenly_shared)
def evenly_shared(cosine: Array, active: Array, a: Array) -> Array:
    """The shortest coefficients with the sum of ``a`` and the same ``sum_i a_i u_i``: (m, m), (m,), (m,) -> (m,).

    Where gradients are dependent, others than ``a`` form the same vector. These are the ones nearest to equal, which do
    not depend on which gradients a pivoting has picked; of parallel gradients each has the same.
    """
    xp = array_namespace(cosine)
    centred, _, _ = _centred(cosine, active)
    # scale: pivots divide the rounding errors of those after them, and one of rounding is a wrong direction
    directions, inverse_lengths = conjugate_directions(centred, scale=16.0)
    # row i is e_i less its conjugate directions: 0 where i was picked, else a vector that the matrix maps to 0
    left = identity(cosine) - (centred @ xp.matrix_transpose(directions) * inverse_lengths) @ directions
    dependent = xp.astype(xp.linalg.diagonal(left) > 0.5, cosine.dtype)
    null = left * dependent[:, None]
    products = xp.sum(null[:, None, :] * null[None, :, :], axis=-1)
    products = xp.where(identity(cosine) > 0, xp.linalg.diagonal(products) + (1 - dependent), products)
    away = a - active
    return active + away - xp.sum(null * solve(products, matvec(null, away)[None, :])[0][:, None], axis=0)


def _centred(cosine: Array, active: Array) -> tuple[Array, Array, Array]:
    """Inner products of the unit gradients less their mean, those of the mean with each, less their own mean, and n."""
    xp = array_namespace(cosine)
    count = at_least(xp.sum(active), 1)
    mean = matvec(cosine, active) / count
    centred_mean = active * (mean - xp.sum(active * mean) / count)
    centred = (cosine - mean[:, None] - centred_mean[None, :]) * active[:, None] * active[None, :]
    return centred, centred_mean, count


def solve(matrix: Array, rhs: Array) -> Array:
    """x with ``matrix @ x = b`` for each row b, the matrix one that rounding cannot make singular.

    (..., n, n), (..., r, n) -> (..., r, n). By the library's factorisation, one operation instead of ten for each
    row of the matrix. To be followed by a step from the residual of x: where matrix products may be rounded to fewer
    digits, a factorisation may be too. Up to 4 unknowns under ``jax.jit`` by elimination, which compiles to one loop.

    Args:
        matrix: positive definite, of a diagonal of about 1, but for rows of the identity.
        rhs: 0 where the matrix has a row of the identity.
    """
    xp = array_namespace(matrix)
    if matrix.shape[-1] <= _MOST_UNROLLED and traced_by_jax(matrix):
        return _eliminated(matrix, rhs)
    columns = xp.matrix_transpose(rhs)
    if not is_tensor(matrix):
        return xp.matrix_transpose(xp.linalg.solve(matrix, columns))
    solved = _solved if matrix.device.type == "cpu" else solved_in_batches
    return xp.matrix_transpose(solved(matrix, columns))


def _solved(matrix: Tensor, columns: Tensor) -> Tensor:
    import torch

    # `torch.linalg.solve` would read back to the host whether it has succeeded
    return torch.linalg.solve_ex(matrix, columns)[0]  # type: ignore[no-any-return]


# a compiler has n^3 / 3 + 2 n^2 operations to read, and again where this stands in another loop
_MOST_UNROLLED = 4


def _eliminated(matrix: Array, rhs: Array) -> Array:
    """The same by Gauss, entry by entry: no loop, no call of a library, nothing but what XLA fuses into one kernel.

    `jax.numpy.linalg.solve` factorises with pivots, which it permutes in a loop of the program: on a GPU every turn of
    such a loop waits for the host. No pivots are needed: each leading minor is that of a positive definite matrix.
    """
    n = matrix.shape[-1]
    a = [[matrix[..., i, j, None] for j in range(n)] for i in range(n)]
    x = [rhs[..., i] for i in range(n)]
    for k in range(n):
        for i in range(k + 1, n):
            factor = a[i][k] / a[k][k]
            x[i] = x[i] - factor * x[k]
            for j in range(k + 1, n):
                a[i][j] = a[i][j] - factor * a[k][j]
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            x[i] = x[i] - a[i][j] * x[j]
        x[i] = x[i] / a[i][i]
    return array_namespace(matrix).stack(x, axis=-1)


_MOST_IN_A_BATCH = 16


def solved_in_batches(matrix: Tensor, columns: Tensor) -> Tensor:
    """The same in batches that torch leaves to cuBLAS where there is CUDA: (..., n, n), (..., n, r) -> (..., n, r).

    What cuBLAS does waits for nothing and can be recorded by a CUDA graph. Fewer than three systems would be left to
    cuSOLVER, whose routines do not promise that, and more than 16 systems of more than 16 unknowns to MAGMA (in torch
    2.11), which waits for the device.
    """
    import torch

    n, systems = matrix.shape[-1], math.prod(matrix.shape[:-2])
    if systems < 3:
        return _solved(matrix.expand(3, *matrix.shape), columns.expand(3, *columns.shape))[0]
    if n <= _MOST_IN_A_BATCH or systems <= _MOST_IN_A_BATCH:
        return _solved(matrix, columns)
    batches = -(-systems // _MOST_IN_A_BATCH)
    pairs = zip(
        torch.tensor_split(matrix.reshape(systems, n, n), batches),
        torch.tensor_split(columns.reshape(systems, n, columns.shape[-1]), batches),
        strict=True,
    )
    return torch.cat([_solved(*pair) for pair in pairs]).view(columns.shape)


def conjugate_directions(matrix: Array, scale: float | None = None) -> tuple[Array, Array]:
    """Vectors v_k, as rows, with ``v_j . A v_k = 0``, and 1 / (v_k . A v_k): (..., n, n) -> (..., n, n), (..., n).

    Gram and Schmidt in the inner product of A with diagonal pivoting, which is a pivoted Cholesky factorisation
    written without the factor. A length below n eps max(diag) counts as zero, and so does its inverse. The steps are
    n, always: what `torch.linalg` offers for singular systems reads its status back to the host.

    Args:
        matrix: A, symmetric positive semi-definite up to rounding.
        scale: size of the numbers that ``matrix`` was computed from, if they may have cancelled, so that what is
            left is rounding; None: the largest diagonal entry.
    """
    xp = array_namespace(matrix)
    n = matrix.shape[-1]
    index = counting(matrix, n)
    largest = xp.max(xp.linalg.diagonal(matrix), axis=-1)[..., None] if scale is None else scale
    floor = n * xp.finfo(matrix.dtype).eps * largest
    schur = matrix
    vectors = xp.broadcast_to(identity(matrix), matrix.shape)
    directions, inverse_lengths = [], []
    for _ in range(n):
        schur, vectors, direction, inverse_length = _pivoted(schur, vectors, floor, index)
        directions.append(direction)
        inverse_lengths.append(inverse_length)
    return xp.stack(directions, axis=-2), xp.concat(inverse_lengths, axis=-1)


@compiled_once
def _pivoted(schur: Array, vectors: Array, floor: Array, index: Array) -> tuple[Array, Array, Array, Array]:
    xp = array_namespace(schur)
    diagonal = xp.linalg.diagonal(schur)
    pivot = xp.astype(index == xp.argmax(diagonal, axis=-1)[..., None], schur.dtype)
    column = xp.sum(schur * pivot[..., None, :], axis=-1)
    direction = xp.sum(vectors * pivot[..., :, None], axis=-2)
    length = xp.sum(diagonal * pivot, axis=-1)[..., None]
    inverse_length = xp.where(length > floor, 1 / xp.where(length > floor, length, 1), 0)
    multiplier = column * inverse_length
    schur = schur - multiplier[..., :, None] * column[..., None, :]
    return schur, vectors - multiplier[..., :, None] * direction[..., None, :], direction, inverse_length
