"""The trace of a neural tangent kernel by random probes: the signal ``traces`` of `gradweight.rules.NTKWeight`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .contract.arguments import check_count

__all__ = ["kernel_trace"]


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
