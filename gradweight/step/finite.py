"""Finite or not at all: what is not finite anywhere makes every weight NaN, so that no part of a step is taken."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from ..linalg.host_access import is_host_readable

__all__ = ["all_finite", "or_nan"]


def all_finite(first: Tensor, *others: Tensor) -> Tensor | None:
    """Whether all entries of all tensors are finite, on the device; None where the host has seen that they are.

    Weights are looked at as well as the Gram matrix: if one of them is NaN, a loss's own head must not step without it.
    """
    tensors = (first, *others)
    if all(map(is_host_readable, tensors)) and all(math.isfinite(x) for t in tensors for x in t.flatten().tolist()):
        return None
    return functools.reduce(torch.logical_and, (torch.isfinite(t).all().to(first.device) for t in tensors))


def or_nan(weights: Tensor, finite: Tensor | None) -> Tensor:
    """The weights, a new tensor; NaN unless all is finite, None standing for True."""
    # always a new tensor: a rule's state is written to in place, and so may be weights that it holds or learns
    return weights.clone() if finite is None else torch.where(finite.to(weights.device), weights, torch.nan)
