"""Precision and recall of generated samples: how many look real, and how much of what is real they cover."""

import torch
from torch import Tensor

__all__ = ["precision_recall"]


@torch.no_grad()
def precision_recall(real: Tensor, fake: Tensor, *, neighbours: int = 3, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The share of fake samples on the manifold of the real ones, and the reverse.

    With ``r_k(x)`` the distance from x to its k-th nearest neighbour in its own set, x not counted, the manifold of
    a set is the union of the balls ``B(x, r_k(x))``, and

        ``precision = #{f : |f - x| <= r_k(x) for some x} / m``, ``recall = #{x : |x - f| <= r_k(f) for some f} / n``,

    (n, d) and (m, d) -> two 0-dim tensors in [0, 1]. Both grow with k, and depend on n and m: compare at equal ones.

    Args:
        real: (n, d) features of real samples, n > ``neighbours``.
        fake: (m, d) features of generated samples, m > ``neighbours``.
        neighbours: k >= 1.
        chunk: how many rows of the distance matrix are held at once, >= 1.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> fake = torch.tensor([[0.4], [1.6], [1.7], [50.0]])
        >>> precision_recall(real, fake, neighbours=1)
        (tensor(0.7500), tensor(1.))

    An outlier has a large ball: the fake 50 alone covers the real 10 here.

    Reference:
        Kynkäänniemi, Karras, Laine, Lehtinen, Aila. Improved Precision and Recall Metric for Assessing Generative
        Models. NeurIPS 2019, arXiv:1904.06991, Eq. 1 and 2, with k = 3 as there; its features are VGG-16's, here they
        are the caller's.
    """
    for name, features in (("real", real), ("fake", fake)):
        if features.dim() != 2 or features.shape[0] <= neighbours:
            raise ValueError(
                f"{name} must have shape (n, d) with n > neighbours = {neighbours}; got {tuple(features.shape)}"
            )
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"precision_recall needs features of one network; got {real.shape[1]} and {fake.shape[1]}")
    if neighbours < 1 or chunk < 1:
        raise ValueError(f"precision_recall needs neighbours >= 1 and chunk >= 1; got {neighbours} and {chunk}")
    return _share_on_manifold(fake, real, neighbours, chunk), _share_on_manifold(real, fake, neighbours, chunk)


def _share_on_manifold(points: Tensor, support: Tensor, k: int, chunk: int) -> Tensor:
    # the k + 1 nearest include the point itself, at distance 0
    radii = torch.cat([_distances(part, support).kthvalue(k + 1, dim=1).values for part in torch.split(support, chunk)])
    inside = [(_distances(part, support) <= radii).any(1) for part in torch.split(points, chunk)]
    return torch.cat(inside).to(radii.dtype).mean()


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    # not through |x|^2 + |y|^2 - 2xy, which would put a point at a distance from itself
    dtype = torch.promote_types(rows.dtype, torch.float32)
    return torch.cdist(rows.to(dtype), columns.to(rows.device, dtype), compute_mode="donot_use_mm_for_euclid_dist")
