"""Vector losses: a named loss of shape (n,), one value per sample, counts as n losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .losses import Losses

__all__ = ["MOST", "expanded"]

MOST = 1024
"""More losses than this in one vector are an error: m rows of k entries, an (m, m) matrix and a problem of its size."""


def expanded(losses: Losses, params: Sequence[Tensor]) -> Losses:
    """The losses with each vector of n > 1 values as n scalars, ``name[0]`` to ``name[n - 1]``; others as they are.

    Separate functions stay as they are: how many losses they give is not known before they are called.

    Raises:
        ValueError: a vector of more than `MOST` values; a name that is there already.
    """
    if isinstance(losses, Mapping):
        if any(_is_vector(loss) for loss in losses.values()):
            return _expanded(losses, params)
        return losses
    return _wrapped(losses, params) if callable(losses) else losses


def _is_vector(loss: object) -> bool:
    return isinstance(loss, Tensor) and loss.dim() == 1 and loss.numel() > 1


def _expanded(losses: Mapping[str, Any], params: Sequence[Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, loss in losses.items():
        if not _is_vector(loss):
            new = {name: loss}
        else:
            if len(loss) > MOST:
                raise ValueError(_too_many(name, len(loss), params))
            # one node of the graph for all of them: n selections would each fill a vector of zeros going backward
            with torch.set_grad_enabled(loss.requires_grad):
                new = {f"{name}[{i}]": value for i, value in enumerate(loss.unbind())}
        twice = new.keys() & found.keys()
        if twice:
            raise ValueError(f"two losses have the name {min(twice)!r}, which the values of {name!r} are given")
        found |= new
    return found


def _wrapped(function: Callable[..., Mapping[str, Tensor]], params: Sequence[Tensor]) -> Callable[..., Any]:
    def called(named: dict[str, Tensor]) -> Any:
        found = function(named)
        return _expanded(found, params) if isinstance(found, Mapping) else found

    return called


def _too_many(name: str, n: int, params: Sequence[Tensor]) -> str:
    size = sum(p.numel() * p.element_size() for p in params) * n / 2**30
    return (
        f"the loss {name!r} has {n} values, each a loss of its own, and {MOST} is the most: their gradients would take "
        f"{size:.3g} GiB, their Gram matrix has {n * n} entries. Reduce it, or the values of some samples at a time "
        "(loss.view(groups, -1).mean(1))"
    )
