"""What physics-informed networks need beside a rule: traces of their kernels, and weights of single points."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .contract.arguments import check_count

__all__ = ["kernel_trace", "residual_attention"]


def kernel_trace(
    residual: Tensor, params: Iterable[Tensor], *, probes: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """An unbiased estimate of ``tr K``, ``K = J J'``, J the derivative of the residual by the parameters.

    The mean of ``|J'v|^2`` over random vectors v of ones and minus ones, for one vector-Jacobian product each. Its
    variance is ``2 sum_(i != j) K_ij^2 / probes``: a relative deviation of 1.4 for one probe of a kernel with one large
    eigenvalue, and about ``sqrt(2 / r)`` for one with r equal ones. The average over steps of `NTKWeight` costs less
    than many probes on one step.

    Args:
        residual: of any shape (..., ), with a graph, which is kept: the vector whose mean square is the loss, not the
            loss. For a mean over N points divide the trace by N, where losses have different numbers of points.
        params: the parameters; those that the residual does not reach count as 0.
        probes: how many, at least 1.
        generator: of the random vectors, on the residual's device; processes that train together need the same draws,
            or the mean of their traces.

    Returns: 0-dim, detached.

    Raises:
        TypeError: ``probes`` is no int.
        ValueError: ``probes`` below 1; a residual without a graph.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> kernel_trace(torch.stack([3 * w[0], 4 * w[1]]), [w])            # K is diagonal: every probe is exact
        tensor(25.)

    Reference:
        Hutchinson. A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines.
        Communications in Statistics 19(2), 1990.

    Deviations:
        jaxpi differentiates the residual of every point by itself instead: exact, for one backward pass a point.
    """
    check_count("probes", probes, 1)
    if not residual.requires_grad:
        raise ValueError("kernel_trace needs a residual with a graph to the parameters; got a tensor without one")
    params = list(params)
    found = torch.zeros((), dtype=residual.dtype, device=residual.device)
    for _ in range(probes):
        bits = torch.randint(0, 2, residual.shape, generator=generator, device=residual.device)
        signs = (2 * bits - 1).to(residual.dtype)
        rows = torch.autograd.grad(residual, params, signs, retain_graph=True, allow_unused=True)
        found = found + sum(row.detach().square().sum() for row in rows if row is not None)
    return found / probes


def residual_attention(residual: Tensor, weights: Tensor, *, decay: float = 0.999, rate: float = 0.01) -> Tensor:
    """Weights of the points inside of one loss, larger where the residual has stayed large: the next ones.

    ``w_i <- decay w_i + rate |r_i| / max_j |r_j|``, between 0 and ``rate / (1 - decay)`` if they began there; the loss
    is ``(w * r).square().mean()``. What a rule balances are the losses among themselves; this is for the points of one.

    Args:
        residual: r, of any shape; no gradient goes through the weights.
        weights: of the same points, on the step before: zeros at first, or ones. For batches keep those of all points,
            and pass the batch's.
        decay: how much of the past to keep, in [0, 1).
        rate: how fast the weights follow, > 0.

    Raises:
        ValueError: an argument out of its range; shapes that differ.

    Example:
        >>> w = torch.zeros(3)
        >>> r = torch.tensor([1.0, -4.0, 2.0])
        >>> w = residual_attention(r, w, decay=0.5, rate=1.0)
        >>> w, (w * r).square().mean()
        (tensor([0.2500, 1.0000, 0.5000]), tensor(5.6875))

    Reference:
        Anagnostopoulos, Toscano, Stergiopulos, Karniadakis. Residual-Based Attention in Physics-Informed Neural
        Networks. Computer Methods in Applied Mechanics and Engineering 421, 2024, arXiv:2307.00379.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"residual_attention needs decay in [0, 1); got {decay}")
    if not rate > 0:
        raise ValueError(f"residual_attention needs rate > 0; got {rate}")
    if residual.shape != weights.shape:
        raise ValueError(
            "residual_attention needs one weight for each entry of the residual, shape "
            f"{tuple(residual.shape)}; got {tuple(weights.shape)}"
        )
    size = residual.detach().abs()
    largest = size.amax()
    return decay * weights.detach() + rate * size / torch.where(largest > 0, largest, 1)
