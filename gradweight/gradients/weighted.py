"""Weighted: one backward of the weighted sum of all losses, where the weights are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .engines import Engine, loss_gradients
from .graph import Graph, check_reached
from .results import Gradients

__all__ = ["SUM", "weighted_gradient"]

SUM = "the weighted sum"
"""The name of the one row."""


def weighted_gradient(
    losses: Mapping[str, Tensor],
    weights: Tensor,
    params: Sequence[Tensor],
    *,
    engine: Engine,
    scale: Tensor | None,
    retain_graph: bool,
) -> Gradients:
    """``sum_i weights[i] grad losses[i]`` by parameters, in one backward pass whatever the number of losses.

    The pass runs when the row is taken.

    Args:
        losses: name -> scalar tensor, with their graphs.
        weights: (m,), without one.
        params, scale, retain_graph: as for `gradweight.gradients.loss_gradients`.
        engine: as there; "func", whose graphs are those of functions, and "gram" are "auto" here.

    Raises:
        ValueError: a loss reaches no parameter.
    """
    check_reached(losses, Graph.of_each(list(losses.values())), params, engine)
    first, values = next(iter(losses.values())), list(losses.values())
    with torch.enable_grad():  # the backward of join() runs without
        if all(loss.device == first.device and loss.dtype == weights.dtype for loss in values):
            total = (torch.stack([loss.reshape(()) for loss in values]) * weights.to(first.device)).sum()
        else:
            pairs = zip(weights.unbind(), values, strict=True)
            total = torch.stack([(w.to(loss.device) * loss.reshape(())).to(first.device) for w, loss in pairs]).sum()
    engine = "auto" if engine in ("func", "gram") else engine
    return loss_gradients({SUM: total}, params, names=None, engine=engine, scale=scale, retain_graph=retain_graph)
