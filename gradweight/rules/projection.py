"""Orthogonal projection: Theorems 2 and 3 of Adaptive Weighted Discriminator, for any number of losses."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..rule import Array, array_namespace
from ._arguments import position
from ._solvers.correlations import correlations, inverse_norms
from ._solvers.linear import solve_psd
from ._solvers.quadratic import nonnegative_minimiser
from ._solvers.rounding import stands_out

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class OrthogonalProjection:
    """Follow some losses while leaving others unchanged to first order.

    With ``t = sum g_i/|g_i|`` over the favoured losses (``sum g_i`` when not normalized), the direction is ``t``
    less its orthogonal projection on the span of the protected gradients; (m, m) -> (m,). For one favoured loss
    r and one protected loss f that is Theorem 2, case 2, ``w_r = 1/|g_r|, w_f = -<g_r, g_f>/(|g_f|^2 |g_r|)``, and
    without normalization Theorem 3, ``w_r = 1, w_f = -<g_r, g_f>/|g_f|^2``. The direction makes 90 degrees with
    every protected gradient and at most 90 with ``t``.

    ``when="conflict"`` only removes conflicts: the direction is the one nearest to ``t`` that makes no obtuse
    angle with any protected gradient. An acute pair is left alone, as Algorithm 1 of the paper does; where one
    protected loss conflicts, the two settings agree.

    Linearly dependent protected gradients span what they span: the direction is unique, the weights are not.
    Exactly opposed gradients give a zero direction (nothing of r is left). A loss whose gradient is exactly zero
    is left out; if all the favoured ones are, the others are followed, each by its unit gradient (by itself when
    not normalized), so that training goes on.

    Args:
        favour: name or names of the losses to follow.
        protect: name or names of the losses to leave unchanged; None: all the others. A loss that is in neither
            list has weight 0.
        normalized: True for unit gradients (Theorem 2), False for gradients as they are (Theorem 3).
        when: "always", or "conflict".

    Raises:
        ValueError: no favoured loss, a loss both favoured and protected or named twice, an unknown `when`, names
            that the step does not have.

    Example:
        >>> import numpy as np
        >>> gram = np.array([[4.0, -2.0], [-2.0, 1.0]]) + np.diag([0.0, 3.0])   # |g| = 2, 2; cosine -1/2
        >>> OrthogonalProjection(favour="real")(gram, names=("real", "fake"))
        array([0.5 , 0.25])

    Reference:
        Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks.
        CVPR 2021, arXiv:2012.03149, Theorem 2, cases 2 and 3, and Theorem 3. Several protected losses are
        our extension.
    """

    faster_on_numpy_from: ClassVar[int] = 1

    favour: Names
    protect: Names | None = None
    normalized: bool = True
    when: Literal["always", "conflict"] = "always"

    def __post_init__(self) -> None:
        if not _tuple(self.favour):
            raise ValueError("OrthogonalProjection needs at least one loss to favour; got none")
        both = set(_tuple(self.favour)) & set(_tuple(self.protect or ()))
        if both:
            raise ValueError(f"OrthogonalProjection cannot both favour and protect {sorted(both)}")
        for names in (_tuple(self.favour), _tuple(self.protect or ())):
            if len(set(names)) < len(names):
                raise ValueError(f"OrthogonalProjection needs each loss named once; got {list(names)}")
        if self.when not in ("always", "conflict"):
            raise ValueError(f"OrthogonalProjection needs when='always' or 'conflict'; got {self.when!r}")

    def __call__(self, gram: Array, /, *, names: tuple[str, ...] | None = None, losses: Array | None = None) -> Array:
        xp = array_namespace(gram)
        inverse_norm = inverse_norms(gram)
        cosine = correlations(gram, inverse_norm)
        favoured, protected = self._indices(gram.shape[-1], names)

        # coordinates along the unit gradients: 1 or |g| for what is followed, 0 where a gradient is zero
        active = inverse_norm > 0
        length = xp.where(active, 1 if self.normalized else 1 / xp.where(active, inverse_norm, 1), 0 * inverse_norm)
        zero = 0 * length[0]
        coordinates = [length[i] if i in favoured else zero for i in range(gram.shape[-1])]
        if protected:
            # t . u_p for each protected p, and the cosines among the protected
            overlap = xp.stack([sum((cosine[p, f] * length[f] for f in favoured), zero) for p in protected])
            rows = xp.stack([cosine[p] for p in protected])
            among = xp.stack([rows[:, p] for p in protected], axis=-1)
            if self.when == "always":
                projected = solve_psd(among, -overlap)
            else:
                size = xp.max(xp.abs(overlap))
                size = xp.where(size > 0, size, 1)
                projected = size * nonnegative_minimiser(among, (overlap / size)[None, :])[0, :]
            target = xp.stack(coordinates)
            for k, p in enumerate(protected):
                coordinates[p] = projected[k]
            direction = xp.stack(coordinates)
            # what rounding leaves of it has any direction
            some = stands_out(cosine, direction[None, :], target[None, :])[0]
            direction = xp.where(some, direction, 0)
            nothing_favoured = sum((length[f] for f in favoured), zero) == 0
            coordinates = [
                xp.where(nothing_favoured & (i in protected), length[i], direction[i]) for i in range(gram.shape[-1])
            ]
        return xp.stack(coordinates) * inverse_norm

    def _indices(self, m: int, names: tuple[str, ...] | None) -> tuple[list[int], list[int]]:
        if names is None:
            raise ValueError("OrthogonalProjection finds its losses by name: it needs names=, and was called without")
        favoured, protected = _tuple(self.favour), _tuple(self.protect or ())
        favoured_rows, protected_rows = (
            [position("OrthogonalProjection", name, names) for name in some] for some in (favoured, protected)
        )
        if self.protect is None:
            protected_rows = [i for i, name in enumerate(names) if name not in favoured]
        return favoured_rows, protected_rows


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
