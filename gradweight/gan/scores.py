"""Scores for `gradweight.rules.AdaptiveWeights`: how real the discriminator finds real samples, and fake ones."""

import torch
from torch import Tensor
from typing_extensions import TypedDict

from ..adversarial import check_sign, ranked_above, wide

__all__ = ["Scores", "critic_scores", "probability_scores"]


class Scores(TypedDict, closed=True):
    """The signals of `gradweight.rules.AdaptiveWeights`, each 0-dim and in [0, 1]."""

    real_score: Tensor
    fake_score: Tensor


@torch.no_grad()
def probability_scores(real_logits: Tensor, fake_logits: Tensor, *, sign: int = 1) -> Scores:
    """Mean probabilities of "real", as the signals that `backward` passes on.

    ``real_score = mean sigmoid(sign * s(x))``, ``fake_score = mean sigmoid(sign * s(G(z)))``, each 0-dim, in [0, 1],
    detached, in float32 at least.

    Args:
        real_logits: logits of real samples, of any shape.
        fake_logits: logits of fake samples, of any shape.
        sign: 1 for a discriminator that scores real samples high, -1 for one that scores them low.

    Raises:
        ValueError: a sign that is neither.

    Example:
        >>> probability_scores(torch.tensor([0.0, 100.0]), torch.tensor([0.0, -100.0]))
        {'real_score': tensor(0.7500), 'fake_score': tensor(0.2500)}

    Reference:
        Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks. CVPR 2021,
        arXiv:2012.03149, section 3.
    """
    check_sign(sign, "probability_scores")
    return {
        "real_score": wide(sign * real_logits).sigmoid().mean(),
        "fake_score": wide(sign * fake_logits).sigmoid().mean(),
    }


@torch.no_grad()
def critic_scores(real_scores: Tensor, fake_scores: Tensor, *, sign: int = 1) -> Scores:
    """How often a critic ranks a real sample above a fake one, as the signals that `backward` passes on.

    ``real_score = P(c_r > c_f) + P(c_r = c_f) / 2`` over all pairs of the batch (the area under the ROC curve), and
    ``fake_score = 1 - real_score``, each 0-dim, in [0, 1], detached.

    A critic trained on `Wasserstein` has no probabilities: its scores may be shifted and, within its constraint,
    stretched at will, and a sigmoid of them means nothing. Their order does. A critic that cannot tell has 1/2 and
    1/2, one that ranks the samples wrongly has ``real_score < 1/2``, one that separates them has 1 and 0, so
    that the thresholds of `gradweight.rules.AdaptiveWeights` keep their sense.

    The paper has no such score; this is ours. It compares all pairs: n_r n_f comparisons.

    Args:
        real_scores: the critic's scores of real samples, of any shape.
        fake_scores: the critic's scores of fake samples, of any shape.
        sign: 1 for a critic that scores real samples high, -1 for one that scores them low.

    Raises:
        ValueError: a sign that is neither.

    Example:
        >>> critic_scores(torch.tensor([1003.0, 1001.0]), torch.tensor([1002.0, 1000.0]))
        {'real_score': tensor(0.7500), 'fake_score': tensor(0.2500)}
    """
    check_sign(sign, "critic_scores")
    real_score = ranked_above(sign * real_scores, sign * fake_scores)
    return {"real_score": real_score, "fake_score": 1 - real_score}
