"""Adaptive Weighted Discriminator: Algorithms 1 and 2, which of the theorems' directions a GAN should take."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..rule import Array, array_namespace
from ._arguments import check_range, position
from ._solvers.correlations import inverse_norms
from ._solvers.rounding import opposed


@dataclass(frozen=True)
class AdaptiveWeights:
    """Weights for a discriminator's real and fake losses, chosen from its mean scores on both.

    With ``s_r, s_f`` in [0, 1] the mean probabilities of "real" that the discriminator gives to real and to fake
    samples, ``g_r, g_f`` the gradients of the two losses (to be minimised) and n_i = 1/|g_i|, Algorithm 1 is

    ==================================================  ===================  =====================  ============
    case                                                <g_r, g_f> < 0       w_r - epsilon          w_f - epsilon
    ==================================================  ===================  =====================  ============
    1, 2: ``s_r < s_f - delta`` or ``s_r < alpha1``     yes                  n_r                    -cos n_f
    \\                                                   no                   n_r                    0
    3, 4: ``s_r > s_f - delta`` and ``s_r > alpha2``    yes                  -cos n_r               n_f
    \\                                                   no                   0                      n_f
    5: otherwise                                        either               n_r                    n_f
    ==================================================  ===================  =====================  ============

    (the cases are tried in order). Algorithm 2, ``normalized=False``, multiplies each row by the norm of the
    gradient that it favours: 1 in place of n_r in rows 1 and 2 and of n_f in rows 3 and 4, with
    ``-<g_r, g_f>/|g_f|^2`` or ``-<g_r, g_f>/|g_r|^2`` for the other weight, and (1, 1) in row 5.

    **Epsilon.** The paper adds ``epsilon`` to both weights as it is. Weights of Algorithm 1 are of the size of
    1/|g|, so once gradient norms are around 1/epsilon = 20, epsilon is as large as they are, the sum of the two
    plain gradients takes over, and with it the conflict that the method removes.
    ``epsilon_mode="relative"`` adds ``epsilon/|g_i|`` instead (``epsilon`` in Algorithm 2, whose weights are of
    the size of 1), the same share of each direction at any scale; the direction of Algorithm 1 is then never obtuse
    to either gradient. "absolute" is the default, for reproduction.

    **Zero gradients.** Hinge losses give exactly zero gradients, often early in training. A loss whose gradient
    is zero gets weight 0. By default case 5 applies to the other one: there is nothing to weigh it against. As printed,
    the other one keeps the weight of its case, which is epsilon alone where it is not favoured; and the zero gradient
    of Algorithm 1 has weight 1/0, with which the direction is NaN. ``zero="printed"`` keeps to the text, with that
    weight read as 0. On DCGAN the two differ in about a tenth of the first steps, and the losses by nothing that
    matters (docs/reproduced-images.md).

    Gradients that are opposed within rounding errors: in cases 1 and 3 the two terms cancel, their weights are 0 and
    only epsilon's part is left; in case 5 of Algorithm 1 likewise. The result is finite always, but for a score that is
    NaN, with which no case can be told: both weights are NaN then.

    Args:
        alpha1: mean real score below which the real loss is favoured, in [0, 1].
        alpha2: mean real score above which the fake loss is favoured, in [alpha1, 1].
        delta: how far the real score may lie below the fake score, >= 0.
        epsilon: added to both weights, >= 0.
        normalized: True for Algorithm 1, False for Algorithm 2.
        real: name of the loss on real samples.
        fake: name of the loss on fake samples.
        epsilon_mode: "absolute" as in the paper, or "relative" to 1/|g_i|.
        zero: what becomes of a loss beside one whose gradient is exactly zero: "train_other" by case 5, or the
            weight that is "printed".

    Signals:
        real_score, fake_score: mean discriminator probabilities, 0-dim, ``sigmoid(logits).mean()`` for example.

    Any further loss, a gradient penalty say, gets weight 1 (our extension: the paper has two losses).
    Without `names` the rows are taken to be real, fake, and then the others.

    Raises:
        ValueError: a hyperparameter out of its range, or a step without the real or the fake loss.

    Example:
        >>> import numpy as np
        >>> gram = np.array([[4.0, -1.0], [-1.0, 25.0]])
        >>> AdaptiveWeights()(gram, real_score=np.asarray(0.6), fake_score=np.asarray(0.4))  # case 5: 1/|g| + 0.05
        array([0.55, 0.25])
        >>> AdaptiveWeights(epsilon=0.0)(gram, real_score=np.asarray(0.4), fake_score=np.asarray(0.4))  # case 1
        array([0.5 , 0.02])

    Reference:
        Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks.
        CVPR 2021, arXiv:2012.03149, Algorithms 1 and 2, Theorems 2 and 3.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    ranges: ClassVar[dict[str, tuple[float, float]]] = {"real_score": (0, 1), "fake_score": (0, 1)}
    alpha1: float = 0.5
    alpha2: float = 0.75
    delta: float = 0.05
    epsilon: float = 0.05
    normalized: bool = True
    real: str = "real"
    fake: str = "fake"
    epsilon_mode: Literal["absolute", "relative"] = "absolute"
    zero: Literal["train_other", "printed"] = "train_other"

    def __post_init__(self) -> None:
        for field in ("alpha1", "alpha2"):
            check_range("AdaptiveWeights", field, getattr(self, field), 0, 1)
        if self.alpha1 > self.alpha2:
            raise ValueError(
                f"AdaptiveWeights needs alpha1 <= alpha2, or its cases overlap; got {self.alpha1} and {self.alpha2}"
            )
        for field in ("delta", "epsilon"):
            check_range("AdaptiveWeights", field, getattr(self, field), 0)
        if self.epsilon_mode not in ("absolute", "relative"):
            raise ValueError(f"AdaptiveWeights needs epsilon_mode 'absolute' or 'relative'; got {self.epsilon_mode!r}")
        if self.zero not in ("train_other", "printed"):
            raise ValueError(f"AdaptiveWeights needs zero 'train_other' or 'printed'; got {self.zero!r}")
        if self.real == self.fake:
            raise ValueError(f"AdaptiveWeights needs two losses; real and fake are both named {self.real!r}")

    def __call__(
        self,
        gram: Array,
        /,
        *,
        real_score: Array,
        fake_score: Array,
        names: tuple[str, ...] | None = None,
        losses: Array | None = None,
    ) -> Array:
        xp = array_namespace(gram)
        r, f = self._indices(gram.shape[-1], names)
        inverse_norm = inverse_norms(gram)
        n_r, n_f = inverse_norm[r], inverse_norm[f]
        cosine = gram[r, f] * n_r * n_f
        s_r, s_f = real_score, fake_score

        has_r, has_f = n_r > 0, n_f > 0
        both = has_r & has_f
        favours = both if self.zero == "train_other" else has_r | has_f
        favour_real = favours & ((s_r < s_f - self.delta) | (s_r < self.alpha1))
        favour_fake = favours & ~favour_real & (s_r > s_f - self.delta) & (s_r > self.alpha2)
        projection = xp.where(cosine < 0, -cosine, 0)  # Theorem 2 if obtuse, the favoured gradient if not

        # in units of the gradients' own lengths, then Algorithm 2 by undoing the favoured one's normalization
        w_r = xp.where(favour_fake, projection, 1) * n_r
        w_f = xp.where(favour_real, projection, 1) * n_f
        # unit gradients that cancel leave rounding errors, which are some direction
        cancel = both & opposed(cosine)
        nothing = cancel if self.normalized else cancel & (favour_real | favour_fake)
        w_r, w_f = xp.where(nothing, 0, w_r), xp.where(nothing, 0, w_f)
        if not self.normalized:
            norm_r = 1 / xp.where(has_r, n_r, 1)
            norm_f = 1 / xp.where(has_f, n_f, 1)
            w_r = w_r * xp.where(favour_fake, norm_f, norm_r)
            w_f = w_f * xp.where(favour_real, norm_r, norm_f)

        relative_to_norm = self.epsilon_mode == "relative" and self.normalized
        w_r = w_r + self.epsilon * (xp.where(cancel, 0, n_r) if relative_to_norm else xp.astype(has_r, gram.dtype))
        w_f = w_f + self.epsilon * (xp.where(cancel, 0, n_f) if relative_to_norm else xp.astype(has_f, gram.dtype))
        known = (n_r >= 0) & (s_r + s_f < xp.inf)
        w_r, w_f = xp.where(known, w_r, xp.nan), xp.where(known, w_f, xp.nan)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        return xp.stack([w_r if i == r else w_f if i == f else active[i] for i in range(gram.shape[-1])])

    def _indices(self, m: int, names: tuple[str, ...] | None) -> tuple[int, int]:
        if names is None:
            if m < 2:
                raise ValueError(f"AdaptiveWeights needs the losses {self.real!r} and {self.fake!r}; got {m} loss")
            return 0, 1
        return position("AdaptiveWeights", self.real, names), position("AdaptiveWeights", self.fake, names)
