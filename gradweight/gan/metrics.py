"""How well samples cover a mixture of Gaussians whose modes are known: covered, good, balanced.

Pure functions of tensors: ``samples`` is (..., n, d), leading dimensions (seeds, moments of training) are kept, and
``modes`` is (k, d), the centres. Nothing here waits for the device.

A sample with a coordinate that is not finite, from a network that has diverged, is near no mode.
"""

import math

import torch
from torch import Tensor

__all__ = ["high_quality_share", "mode_kl", "modes_covered"]


def modes_covered(samples: Tensor, modes: Tensor, std: float, *, radius: float = 3.0, at_least: int = 1) -> Tensor:
    """The number of modes that have a high-quality sample.

    ``#{j : #{i : j = argmin_l |x_i - c_l| and |x_i - c_j| <= radius * std} >= at_least}``, (..., n, d) -> (...),
    integers from 0 to k. A sample counts for its nearest mode only; of two that are equally near, for the first.

    The literature's rule is that one sample is enough, so the number can only grow with n: compare at equal n, and
    look at `mode_kl` beside it, which sees modes that are covered but starved.

    Args:
        samples: (..., n, d) generated samples, n >= 1.
        modes: (k, d) centres of the mixture, k >= 1.
        std: standard deviation of each mode in each coordinate, > 0.
        radius: how near a high-quality sample is, in standard deviations, > 0.
        at_least: how many high-quality samples cover a mode, >= 1.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.

    Example:
        >>> modes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> samples = torch.tensor([[0.01, 0.0], [0.02, 0.01], [0.97, 0.0], [0.5, 0.5]])
        >>> modes_covered(samples, modes, std=0.01)
        tensor(2)
        >>> modes_covered(samples, modes, std=0.01, at_least=2)
        tensor(1)

    Reference:
        Srivastava, Valkov, Russell, Gutmann, Sutton. VEEGAN: Reducing Mode Collapse in GANs using Implicit
        Variational Learning. NeurIPS 2017, arXiv:1705.07761, section 5.1. Welfert, Kurri, Otstot, Sankar. Addressing
        GAN Training Instabilities via Tunable Classification Losses. arXiv:2310.18291, asks for a sample within the
        radius of the mode whether or not another is nearer, which is the same where modes lie 2 radii apart.
    """
    if at_least < 1:
        raise ValueError(f"modes_covered needs at_least >= 1; got {at_least}")
    index, good = _nearest(samples, modes, std, radius)
    return (_histogram(index, good, modes.shape[0]) >= at_least).sum(-1)


def high_quality_share(samples: Tensor, modes: Tensor, std: float, *, radius: float = 3.0) -> Tensor:
    """The share of samples within ``radius`` standard deviations of the nearest mode.

    ``#{i : min_j |x_i - c_j| <= radius * std} / n``, (..., n, d) -> (...), from 0 to 1 in the dtype of ``samples``.
    Samples of the mixture itself reach the chi-square probability, in two dimensions ``1 - exp(-radius^2 / 2)`` =
    0.989, and a share above it says that the modes are drawn too narrow.

    Args:
        samples: (..., n, d) generated samples, n >= 1.
        modes: (k, d) centres of the mixture, k >= 1.
        std: standard deviation of each mode in each coordinate, > 0.
        radius: how near a high-quality sample is, in standard deviations, > 0.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.

    Example:
        >>> modes = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> high_quality_share(torch.tensor([[0.01, 0.0], [0.98, 0.01], [0.5, 0.5], [0.0, 0.04]]), modes, std=0.01)
        tensor(0.5000)

    Reference:
        Srivastava, Valkov, Russell, Gutmann, Sutton. VEEGAN: Reducing Mode Collapse in GANs using Implicit
        Variational Learning. NeurIPS 2017, arXiv:1705.07761, section 5.1.
    """
    _, good = _nearest(samples, modes, std, radius)
    return good.to(samples.dtype).mean(-1)


def mode_kl(samples: Tensor, modes: Tensor, *, shares: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the samples' histogram over the nearest modes from the mixture's.

    With p_j the share of samples whose nearest mode is j, and q_j the mixture's, ``sum_j p_j log(p_j / q_j)`` in
    nats, (..., n, d) -> (...): 0 where every mode gets its due, log k where all samples are at one of k equal
    modes. Every sample counts, however far from its mode. NaN if a sample is not finite.

    For n samples of the mixture itself the expected value is about ``(k - 1) / 2n``, not 0.

    Args:
        samples: (..., n, d) generated samples, n >= 1.
        modes: (k, d) centres of the mixture, k >= 1.
        shares: (k,) the mixture's shares, each > 0, normalised here; equal by default.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> modes = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> mode_kl(torch.tensor([[0.1, 0.0], [0.9, 0.0]]), modes)
        tensor(0.)
        >>> mode_kl(torch.tensor([[0.1, 0.0], [0.2, 0.0]]), modes)  # log 2
        tensor(0.6931)

    Reference:
        Welfert, Kurri, Otstot, Sankar. Addressing GAN Training Instabilities via Tunable Classification Losses.
        arXiv:2310.18291. We take the divergence in the direction that stays finite when a mode is missed, and the
        mixture's true shares instead of a second sample's.
    """
    k = modes.shape[0]
    if shares is not None and shares.shape != (k,):
        raise ValueError(f"mode_kl needs one share per mode, shape ({k},); got shape {tuple(shares.shape)}")
    index, finite = _nearest(samples, modes, 1.0, math.inf)
    p = _histogram(index, finite, k).to(samples.dtype) / samples.shape[-2]
    q = torch.ones_like(p) if shares is None else shares.to(p)
    q = q / q.sum(-1, keepdim=True)
    kl = torch.where(p > 0, p * (torch.where(p > 0, p, 1) / q).log(), 0).sum(-1)
    return torch.where(finite.all(-1), kl, torch.nan)


def _nearest(samples: Tensor, modes: Tensor, std: float, radius: float) -> tuple[Tensor, Tensor]:
    """For each sample the index of its nearest mode, and whether it lies within the radius of it."""
    if samples.dim() < 2 or samples.shape[-2] < 1:
        raise ValueError(f"samples must have shape (..., n, d) with n >= 1; got {tuple(samples.shape)}")
    if modes.dim() != 2 or modes.shape[0] < 1 or modes.shape[1] != samples.shape[-1]:
        raise ValueError(
            f"modes must have shape (k, {samples.shape[-1]}) with k >= 1, like the samples; got {tuple(modes.shape)}"
        )
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std must be > 0 and finite; got {std}")
    if not radius > 0:
        raise ValueError(f"radius must be > 0; got {radius}")
    # the faster way of cdist, through |x|^2 + |c|^2 - 2xc, loses the digits that tell 3 std from the centre
    # in single precision at least: half has neither the digits nor, in torch, the function
    wide = samples.to(torch.promote_types(samples.dtype, torch.float32))
    distances = torch.cdist(wide, modes.to(wide), compute_mode="donot_use_mm_for_euclid_dist")
    distance, index = distances.min(-1)
    return index, torch.isfinite(samples).all(-1) & (distance <= radius * std)


def _histogram(index: Tensor, counted: Tensor, k: int) -> Tensor:
    """How many counted samples have each index, (..., n) -> (..., k)."""
    one_hot = index.unsqueeze(-1) == torch.arange(k, device=index.device)
    return (one_hot & counted.unsqueeze(-1)).sum(-2)
