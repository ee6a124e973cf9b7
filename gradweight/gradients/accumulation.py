"""Accumulation: per-loss sums over the micro-batches of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import SupportsFloat

import torch
from torch import Tensor

from ..linalg.rows import Row, accumulate
from ..linalg.statistics import Statistics
from .results import Gradients

__all__ = ["AccumulatedGradients", "check_numbers"]


@dataclass(frozen=True)
class AccumulatedGradients:
    """What the `backward` calls since the last ``zero_grad`` add up to.

    Gradients and losses are summed, as ``.grad`` is in a plain loop; signals are averaged. So the rule sees what it
    would see for the whole batch at once: the sum of losses that were each divided by the number of micro-batches,
    and the mean of equally many scores.

    Under `join` the factor comes from the host instead, by way of the cotangent c of each micro-batch: rows and
    losses are sums of c times what they are, divided by the sum of c where the rule looks at them. That is their
    mean, whether the host divides by the number of micro-batches, multiplies by a loss scale, or neither.

    Args:
        names: names of the losses.
        params: the parameters that the rows refer to.
        rows: one gradient per loss, times the scale.
        losses: (m,) values, times the scale.
        signals: name -> 0-dim tensor.
        scale: 0-dim, what rows and losses are to be divided by; None for 1.
        joined: whether the scale is a sum over the micro-batches.
        backwards: how many micro-batches.
    """

    names: tuple[str, ...]
    params: list[Tensor]
    rows: list[Row]
    losses: Tensor
    signals: dict[str, Tensor]
    scale: Tensor | None = None
    joined: bool = False
    backwards: int = 1

    @staticmethod
    def from_micro_batch(
        gradients: Gradients,
        params: list[Tensor],
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None = None,
        joined: bool = False,
    ) -> AccumulatedGradients:
        """One micro-batch."""
        device = params[0].device
        dtype = torch.promote_types(gradients.losses[0].dtype, torch.float32)
        losses = torch.stack([_scalar(loss, device, dtype) for loss in gradients.losses])
        tensors = {name: _as_tensor(value, losses) for name, value in signals.items()}
        if scale is not None:
            scale = scale.detach().to(losses)
            losses = losses * scale
        return AccumulatedGradients(gradients.names, params, list(gradients.rows), losses, tensors, scale, joined)

    def unscaled(self, gram: Tensor) -> tuple[Tensor, Tensor]:
        """The Gram matrix of the rows and the losses as the rule should see them, in the dtype of ``gram``."""
        losses = self.losses.to(gram)
        if self.scale is None:
            return gram, losses
        scale = self.divisor(gram)
        return gram / scale / scale, losses / scale

    def statistics(self, found: Statistics, gram: Tensor) -> dict[str, Tensor]:
        """The statistics of the rows of a block as the rule should see them: name -> (m,), in the dtype of ``gram``."""
        scale = 1 if self.scale is None else self.divisor(gram).abs()
        return {"max_abs": found.max_abs.to(gram) / scale, "mean_abs": found.mean_abs.to(gram) / scale}

    def divisor(self, like: Tensor) -> Tensor:
        """The scale, which is not None, as rows and losses are to be divided by it, in the dtype of ``like``."""
        assert self.scale is not None
        scale = self.scale.to(like)
        return torch.where(scale == 0, 1, scale)  # a host that multiplied by 0 gets zero gradients, not NaN

    def aligned_to(self, params: list[Tensor]) -> tuple[list[Tensor], list[Row]]:
        """``params`` with those of our own that it lacks at the end, and the rows in that order."""
        now = set(params)
        union = [*params, *(p for p in self.params if p not in now)]
        return union, _aligned(self.rows, self.params, union)

    def add(self, new: AccumulatedGradients) -> AccumulatedGradients:
        """The sum of the two. The rows of ``new`` are used up; nothing of ``self`` is written to.

        Raises:
            ValueError: the names of the losses or of the signals differ, or one is from `backward` and one from `join`.
        """
        if self.names != new.names:
            raise ValueError(
                f"the micro-batches of one step need the same losses: {list(self.names)} before, "
                f"{list(new.names)} now; call zero_grad() between steps, or pass None for a loss that one of them lacks"
            )
        if self.signals.keys() != new.signals.keys():
            raise ValueError(
                f"the micro-batches of one step need the same signals: {sorted(self.signals)} before, "
                f"{sorted(new.signals)} now"
            )
        if self.joined != new.joined:
            raise ValueError("the micro-batches of one step need all backward() or all join(); got both")
        # a parameter that is frozen for this micro-batch keeps what it has, and takes part
        params, before = self.aligned_to(new.params)
        share = new.backwards / (self.backwards + new.backwards)
        return replace(
            new,
            params=params,
            rows=accumulate(before, _aligned(new.rows, new.params, params)),
            losses=self.losses + new.losses,
            signals={name: torch.lerp(self.signals[name], value, share) for name, value in new.signals.items()},
            scale=new.scale if self.scale is None or new.scale is None or not new.joined else self.scale + new.scale,
            backwards=self.backwards + new.backwards,
        )


def _aligned(rows: list[Row], then: list[Tensor], now: list[Tensor]) -> list[Row]:
    """The rows in the order of the parameters as they are now: some may have been added, frozen or thawed since."""
    if len(then) == len(now) and all(a is b for a, b in zip(then, now, strict=True)):
        return rows
    position = {p: index for index, p in enumerate(then)}
    return [[row[position[p]] if p in position else None for p in now] for row in rows]


def _scalar(loss: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    if loss.dim() == 0 and loss.dtype == dtype and loss.device == device:
        return loss  # skip no-op dispatch
    return loss.reshape(()).to(device, dtype)


def check_numbers(signals: Mapping[str, object]) -> None:
    """Raise `TypeError` for a signal that is no tensor and no number."""
    for name, value in signals.items():
        if not isinstance(value, SupportsFloat):  # as tensors are
            raise TypeError(f"the signal {name!r} must be a 0-dim tensor or a number; got {type(value).__name__}")


def _as_tensor(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(like)
    return torch.full((), float(value), dtype=like.dtype, device=like.device)
