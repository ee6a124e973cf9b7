"""Distributions over a few points, for games whose best adversary is known: an expectation is a sum."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

TINY, POINTS = 0.01, 6


@st.composite
def distributions(draw: st.DrawFn, count: int) -> list[Tensor]:
    """Some distributions over the same 2 to 6 points, (n,) each, none of whose probabilities is below 0.01 / 6."""
    n = draw(st.integers(2, POINTS))
    shares = st.lists(st.floats(TINY, 1), min_size=n, max_size=n)
    drawn = [torch.tensor(draw(shares), dtype=torch.float64) for _ in range(count)]
    return [p / p.sum() for p in drawn]


def kl(p: Tensor, q: Tensor) -> Tensor:
    """The Kullback-Leibler divergence, in nats."""
    return (p * (p / q).log()).sum()
