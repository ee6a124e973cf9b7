"""One rule of each kind and of each solver, for tests of all rules that cost much of a second each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from gradweight.rules.claims import CLAIMS, Claims

__all__ = ["others_slow"]

NAMES = {
    "AngleBisector",  # a closed form
    "AdaptiveWeights",  # signals
    "OrthogonalProjection",  # names
    "UPGrad",  # a cone
    "ConFIG",  # eigenvalues
    "NashMTL",  # Newton's method
    "CAGrad",  # a ball
    "GradNorm",  # state
    "CRMOGM",  # a rule round another
    "DWA",  # losses alone
    "PCGrad",  # random numbers
    "PINNAnnealing",  # statistics of the entries
    "GradDrop",  # coordinates
}


def others_slow(claims: Iterable[Claims] = CLAIMS) -> list[Any]:
    """The rules as parameters of a test, those that are not representatives marked slow."""
    return [pytest.param(c, id=c.name, marks=() if c.name in NAMES else pytest.mark.slow) for c in claims]
