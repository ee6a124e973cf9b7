"""Sliced Wasserstein distance between two sets of samples, exact along each direction."""

import math

import torch
from torch import Tensor

__all__ = ["sliced_wasserstein"]


@torch.no_grad()
def sliced_wasserstein(
    first: Tensor, second: Tensor, *, projections: int = 256, order: float = 2.0, seed: int = 0
) -> Tensor:
    """The Wasserstein distance of the projections on random directions, averaged.

    ``SW_p = (mean_l W_p(X theta_l, Y theta_l)^p)^(1/p)`` over directions ``theta_l`` uniform on the sphere;
    (..., n, d) and (..., m, d) -> (...), in [0, inf), in the units of the samples. On a line the distance is exact,

        ``W_p^p = integral_0^1 |F^-1(q) - G^-1(q)|^p dq``,

    with both quantile functions steps, for n = m the mean over ``|x_(i) - y_(i)|^p`` of the sorted values.

    Zero for equal sets only in the limit of many directions. For two samples of one distribution it is not zero
    but of the order ``n^(-1/2p)`` at worst: compare at equal n, or beside the distance of two real sets.

    Args:
        first: (..., n, d) samples or features, n >= 1.
        second: (..., m, d), m >= 1, with the same leading dimensions.
        projections: how many directions, >= 1. The error of the mean falls as ``projections^(-1/2)``.
        order: p >= 1.
        seed: of the directions, drawn anew on the CPU on every call, so that calls with one seed compare by the same.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> sliced_wasserstein(x, x + 3)  # in one dimension, the Wasserstein distance itself
        tensor(3.)
        >>> sliced_wasserstein(x, torch.tensor([[1.0]]), order=1)
        tensor(0.6667)

    Reference:
        Bonneel, Rabin, Peyré, Pfister. Sliced and Radon Wasserstein Barycenters of Measures. Journal of Mathematical
        Imaging and Vision 2015. As a measure of generators on image patches: Karras, Aila, Laine, Lehtinen.
        Progressive Growing of GANs for Improved Quality, Stability, and Variation. ICLR 2018, arXiv:1710.10196,
        section 5. Here the samples are taken as they are given.
    """
    for name, samples in (("first", first), ("second", second)):
        if samples.dim() < 2 or samples.shape[-2] < 1:
            raise ValueError(f"{name} must have shape (..., n, d) with n >= 1; got {tuple(samples.shape)}")
    if first.shape[-1] != second.shape[-1] or first.shape[:-2] != second.shape[:-2]:
        raise ValueError(
            "sliced_wasserstein needs samples of the same dimension, in as many sets; got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    if projections < 1:
        raise ValueError(f"sliced_wasserstein needs projections >= 1; got {projections}")
    if not (order >= 1 and math.isfinite(order)):
        raise ValueError(f"sliced_wasserstein needs an order >= 1, finite; got {order}")
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(first.shape[-1], projections, dtype=torch.float64, generator=generator, device="cpu")
    directions = (directions / directions.norm(dim=0)).to(first.device, dtype)
    x = (first.to(dtype) @ directions).sort(dim=-2).values
    y = (second.to(x) @ directions).sort(dim=-2).values
    i, j, share = _steps(x.shape[-2], y.shape[-2], x.device)
    powers = (x[..., i, :] - y[..., j, :]).abs().pow(order)
    distance: Tensor = (powers * share.to(dtype).unsqueeze(-1)).sum(-2).mean(-1).pow(1 / order)
    return distance


def _steps(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where both quantile functions are constant: the index in each sorted sample, and how long the piece is."""
    # in units of 1/nm, in which every jump is an integer
    jumps = torch.cat([m * torch.arange(1, n + 1, device=device), n * torch.arange(1, m + 1, device=device)])
    right = jumps.sort().values
    left = torch.cat([right.new_zeros(1), right[:-1]])
    share = (right - left).to(torch.float64) / (n * m)
    # a jump of both at once makes a piece of length 0; at the right end it would point beyond the last sample
    return (left // m).clamp(max=n - 1), (left // n).clamp(max=m - 1), share
