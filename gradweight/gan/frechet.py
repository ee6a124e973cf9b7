"""What features and class probabilities say about generated samples; the network behind them is the caller's."""

import torch
from torch import Tensor

__all__ = ["classifier_score", "frechet_distance"]


@torch.no_grad()
def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """The squared Fréchet distance between the Gaussians that two sets of features have the moments of.

    ``|mu_r - mu_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2))``, (n, d) and (m, d) -> (), in [0, inf), in the squared
    units of the features. The covariances are the unbiased ones; singular ones (fewer samples than features) are fine.

    No matrix root is taken: with ``C_r = R^T R`` and ``C_f = S^T S`` from QR of the centred features, ``tr (C_r
    C_f)^(1/2)`` is the sum of the singular values of ``R S^T``. That keeps the digits that squaring the condition
    of either matrix would cost, and is real by construction. Computed in float64, except where the device has none.

    On Inception features this is the FID. On features of another network **it is not**: say which network, and never
    set the number beside a published FID. The estimate is too large by about 1/n times something that depends on
    the generator, so compare at equal n only.

    Args:
        real: (n, d) features of real samples, n >= 2.
        fake: (m, d) features of generated samples, m >= 2.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
        >>> frechet_distance(x, x + torch.tensor([3.0, 4.0]))  # |(3, 4)|^2
        tensor(25.)

    Reference:
        Dowson, Landau. The Fréchet Distance between Multivariate Normal Distributions. Journal of Multivariate
        Analysis 1982. Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter. GANs Trained by a Two Time-Scale Update
        Rule Converge to a Local Nash Equilibrium. NeurIPS 2017, arXiv:1706.08500, Eq. 6. Bias: Chong, Forsyth.
        Effectively Unbiased FID and Inception Score and Where to Find Them. CVPR 2020, arXiv:1911.07023.
    """
    for name, features in (("real", real), ("fake", fake)):
        if features.dim() != 2 or features.shape[0] < 2:
            raise ValueError(f"{name} must have shape (n, d) with n >= 2; got {tuple(features.shape)}")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"frechet_distance needs features of one network; got {real.shape[1]} and {fake.shape[1]}")
    dtype = torch.promote_types(torch.promote_types(real.dtype, fake.dtype), torch.float32)
    mean_r, root_r = _moments(real)
    mean_f, root_f = _moments(fake.to(real.device))
    cross = torch.linalg.svdvals(root_r @ root_f.mT).sum()
    distance: Tensor = (mean_r - mean_f).square().sum() + root_r.square().sum() + root_f.square().sum() - 2 * cross
    return distance.clamp(min=0).to(dtype)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and a matrix R with ``R^T R`` the covariance."""
    features = features.to(torch.float32 if features.device.type == "mps" else torch.float64)
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R
    return mean, root / (len(features) - 1) ** 0.5


@torch.no_grad()
def classifier_score(probabilities: Tensor) -> Tensor:
    """How sure a classifier is of each sample, and how evenly the samples fall into its classes.

    ``exp(mean_i KL(p_i || mean p))``, (n, k) -> (), in [1, k]: k if every sample is of one class for certain and all
    classes are as frequent, 1 if the probabilities are the same for all samples. Samples that all classes
    have one copy of reach k, so it says nothing about variety within a class.

    On the Inception network's probabilities this is the Inception Score of one split. On another classifier's **it
    is not**, and the two are never to be set side by side.

    Args:
        probabilities: (n, k) class probabilities of n >= 1 generated samples; the rows sum to 1.

    Raises:
        ValueError: a shape that does not fit.

    Example:
        >>> classifier_score(torch.eye(10))
        tensor(10.0000)
        >>> classifier_score(torch.full((5, 10), 0.1))
        tensor(1.)

    Reference:
        Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen. Improved Techniques for Training GANs. NeurIPS 2016,
        arXiv:1606.03498, section 4. The public codes average over ten splits, which lowers the number; here is one.
    """
    if probabilities.dim() != 2 or probabilities.shape[0] < 1:
        raise ValueError(f"probabilities must have shape (n, k) with n >= 1; got {tuple(probabilities.shape)}")
    p = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    score: Tensor = (torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()).exp()
    return score
