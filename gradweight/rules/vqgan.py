"""VQGAN's adaptive weight: an adversarial loss whose gradient is as long as the reconstruction's."""

from dataclasses import dataclass
from typing import ClassVar

from ..rule import Array, array_namespace
from ._arguments import check_positive, check_range, position
from ._solvers.arrays import at_most
from ._solvers.correlations import inverse_norms


@dataclass(frozen=True)
class VQGANWeight:
    """Weight 1 for every loss but the adversarial one, whose gradient is brought to the reconstruction's length.

    ``lambda = factor * min(|g_rec| / |g_adv|, most)``; (m, m) -> (m,). A loss whose gradient is exactly zero is left
    out; where the reconstruction's is, lambda is ``factor``, so that training goes on.

    Args:
        reconstruction: name of the reconstruction loss.
        adversarial: name of the adversarial loss of the generator.
        factor: length of the weighted adversarial gradient in units of the reconstruction's, >= 0.
        most: bound on the ratio, > 0.
        every_step: False for an adversarial loss that comes and goes, or comes late: a step without it has weight 1
            throughout.

    Signals:
        names: supplied automatically.

    Raises:
        ValueError: an argument out of its range; called without `names`; a step without the adversarial loss, unless it
            comes and goes, or with it and without the reconstruction.

    Example:
        >>> import numpy as np
        >>> VQGANWeight()(np.diag([4.0, 0.01, 1.0]), names=("reconstruction", "adversarial", "codebook"))
        array([ 1., 16.,  1.])

    Reference:
        Esser, Rombach, Ommer. Taming Transformers for High-Resolution Image Synthesis. CVPR 2021, arXiv:2012.09841,
        Eq. 7; factor and bound as in the authors' code.

    Deviations:
        The authors take the gradients at the decoder's last layer, as `gradweight.LossBalancer` does if it is given
        that layer; with the wrapper they are those at all the parameters of the optimizer. They add 1e-6 (in code
        1e-4) to |g_adv|, which swamps small gradients; leaving out zero ones needs no constant.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    reconstruction: str = "reconstruction"
    adversarial: str = "adversarial"
    factor: float = 0.8
    most: float = 1e4
    every_step: bool = True

    def __post_init__(self) -> None:
        check_range("VQGANWeight", "factor", self.factor, 0)
        check_positive("VQGANWeight", "most", self.most)
        if self.reconstruction == self.adversarial:
            raise ValueError(f"VQGANWeight needs two losses; both are named {self.adversarial!r}")

    def __call__(self, gram: Array, /, *, names: tuple[str, ...]) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        active = xp.astype(inverse_norm > 0, gram.dtype)
        adv = position("VQGANWeight", self.adversarial, names, every_step=self.every_step)
        if adv is None:
            return active
        rec = position("VQGANWeight", self.reconstruction, names)
        ratio = inverse_norm[adv] / xp.where(active[rec] > 0, inverse_norm[rec], 1)
        ratio = xp.where(active[rec] > 0, at_most(ratio, self.most), 1)
        return xp.stack([self.factor * ratio * active[i] if i == adv else active[i] for i in range(len(names))])
