"""What the adversarial papers need beside a rule: losses as named terms, penalties, scores, AdvAs, metrics."""

from ._alpha_loss import alpha_loss
from .advas import advas_penalty, advas_penalty_half_batches, advas_penalty_unbiased
from .alpha import Alpha
from .frechet import classifier_score, frechet_distance
from .losses import GANLoss, Hinge, LeastSquares, PerSampleLoss, Vanilla, Wasserstein
from .manifold import precision_recall
from .metrics import high_quality_share, mode_kl, modes_covered
from .penalties import gradient_penalty, r1_penalty, r2_penalty
from .relativistic import Relativistic
from .scores import Scores, critic_scores, probability_scores
from .wasserstein import sliced_wasserstein

__all__ = [
    "Alpha",
    "GANLoss",
    "Hinge",
    "LeastSquares",
    "PerSampleLoss",
    "Relativistic",
    "Scores",
    "Vanilla",
    "Wasserstein",
    "advas_penalty",
    "advas_penalty_half_batches",
    "advas_penalty_unbiased",
    "alpha_loss",
    "classifier_score",
    "critic_scores",
    "frechet_distance",
    "gradient_penalty",
    "high_quality_share",
    "mode_kl",
    "modes_covered",
    "precision_recall",
    "probability_scores",
    "r1_penalty",
    "r2_penalty",
    "sliced_wasserstein",
]
