"""How much each loss counts in the mean that a rule starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..rule import Array, array_namespace
from ._solvers.correlations import inverse_norms

Preference = Mapping[str, float] | None


def check_preference(preference: Preference, rule: str) -> None:
    """Raise `ValueError` unless every entry is finite and at least 0."""
    for name, value in (preference or {}).items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{rule} needs finite preferences of at least 0; got {value} for {name!r}")


def preference_vector(preference: Preference, rule: str, gram: Array, names: tuple[str, ...] | None) -> Array:
    """The preferences in the order of the losses, 0 for zero gradients: (m, m) -> (m,).

    Without a preference, 1/n for each of the n losses whose gradient is not exactly zero.
    """
    xp = array_namespace(gram)
    active = inverse_norms(gram) > 0
    if preference is None:
        return xp.astype(active, gram.dtype) / xp.clip(xp.sum(xp.astype(active, gram.dtype)), 1, None)
    if names is None:
        raise ValueError(f"{rule} finds its preferences by name: it needs names=, and was called without")
    for name in names:
        if name not in preference:
            raise ValueError(f"{rule} has no preference for the loss {name!r}; it has {sorted(preference)}")
    zero = 0 * gram[0, 0]
    return xp.stack([xp.where(active[i], float(preference[name]), zero) for i, name in enumerate(names)])
