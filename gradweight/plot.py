"""Pictures of what the gradients did: angles, cosines, norms and weights over the steps, and who conflicts with whom.

For people; needs matplotlib (``pip install 'gradweight[plot]'``). Each function takes `Combination` objects, such
as an optimizer's ``history``, reads them once and returns a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch

from .combination import Combination, cosine
from .summary import grouped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["conflicts", "history"]


def history(steps: Sequence[Combination]) -> Figure:
    """Six panels over the steps: losses, gradient norms, weights; angles of each pair and of each loss to the step, in
    degrees; and the first-order change of each loss per unit of learning rate, which is above zero where it rises.

    All but the angles have logarithmic axes, on both sides of zero where some values are negative. A loss that is
    absent on some steps has gaps there. A vector loss of more than 8 values is one line, their mean.

    Args:
        steps: one `Combination` a step, in order; ``opt.history`` for example.

    Raises:
        ValueError: no steps.
        ImportError: matplotlib is not installed.
    """
    names = _names(steps, "history")
    records = [step.as_dict() for step in steps]
    figure, axes = _pyplot().subplots(2, 3, figsize=(14, 6), sharex=True, layout="constrained")
    colours = {name: f"C{i % 10}" for i, name in enumerate(names)}
    panels = {"loss": "loss", "grad_norm": "gradient norm", "weight": "weight", "change": "predicted change / lr"}
    for axis, (key, title) in zip((*axes[0], axes[1, 2]), panels.items(), strict=True):
        everything = []
        for name in names:
            where = f"{key}/{name}"
            values = [record.get(where, record.get(f"{where}.mean", float("nan"))) for record in records]
            everything += [value for value in values if value == value]
            axis.plot(values, color=colours[name], label=name, lw=1.2)
        if everything and min(everything) > 0:
            axis.set_yscale("log")
        elif any(everything):  # weights may be negative: logarithmic on both sides of a linear stretch
            axis.set_yscale("symlog", linthresh=_low(everything))
        axis.set_title(title)
    angles, to_step = axes[1, :2]
    for k, (a, b) in enumerate(combinations(names, 2)):
        values = [_degrees(cosine(record, a, b)) for record in records]
        angles.plot(values, color=f"C{k % 10}" if len(names) > 2 else "black", label=f"{a} ~ {b}", lw=1.2)
    for name in names:
        cosines = [record.get(f"step_cos/{name}", record.get(f"step_cos/{name}.mean")) for record in records]
        to_step.plot([_degrees(value) for value in cosines], color=colours[name], label=name, lw=1.2)
    titles = "angle (degrees; obtuse is conflict)", "angle to the step (obtuse: the loss rises)"
    for axis, title in zip((angles, to_step), titles, strict=True):
        axis.axhspan(90, 180, color="C3", alpha=0.08, lw=0)
        axis.set(ylim=(0, 180), yticks=range(0, 181, 45), title=title)
    for axis in axes[1]:
        axis.set_xlabel("step")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    if 2 < len(names) <= 6:
        angles.legend(fontsize=7, ncols=2)
    return _figure(figure)


def conflicts(steps: Sequence[Combination]) -> Figure:
    """The conflict matrix: for each pair of losses the mean cosine, and the share of steps with an obtuse angle.

    Args:
        steps: one `Combination` a step; pairs are averaged over the steps where both losses are present.

    Raises:
        ValueError: no steps.
        ImportError: matplotlib is not installed.
    """
    names = _names(steps, "conflicts")
    position = {name: i for i, name in enumerate(names)}
    total = torch.zeros(len(names), len(names), dtype=torch.float64, device="cpu")
    obtuse, seen = torch.zeros_like(total), torch.zeros_like(total)
    for step in steps:
        cosines = step.cosines.detach().to("cpu", torch.float64)
        groups = grouped(step.names)
        label = {i: a for a, some in groups.items() for i in some}
        where = torch.tensor([position[label[i]] for i in range(len(step.names))], device="cpu")
        measured = ~cosines.isnan()
        index = where[:, None], where[None, :]
        total.index_put_(index, cosines.nan_to_num(), accumulate=True)
        obtuse.index_put_(index, ((cosines < 0) & measured).double(), accumulate=True)
        seen.index_put_(index, measured.double(), accumulate=True)
    mean, share = total / seen, obtuse / seen

    side = 1.6 + 0.9 * len(names)
    figure, axis = _pyplot().subplots(figsize=(side + 1.2, side), layout="constrained")
    image = axis.imshow(mean.numpy(), cmap="RdBu", vmin=-1, vmax=1)
    for i in range(len(names)):
        for j in range(len(names)):
            if i != j and seen[i, j] > 0:
                text = f"{float(mean[i, j]):+.2f}\n{float(share[i, j]):.0%}"
                colour = "white" if abs(float(mean[i, j])) > 0.6 else "black"
                axis.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(f"mean cosine, share of {len(steps)} steps in conflict", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8)
    return _figure(figure)


def _names(steps: Sequence[Combination], function: str) -> list[str]:
    if not steps:
        raise ValueError(
            f"plot.{function} needs at least one Combination; got none (was history=n given and step() called?)"
        )
    return list(dict.fromkeys(name for step in steps for name in grouped(step.names)))


def _low(values: Sequence[float]) -> float:
    """The tenth percentile of the sizes of the non-zero values."""
    sizes = sorted(abs(value) for value in values if value)
    return sizes[len(sizes) // 10]


def _degrees(cosine: float | None) -> float:
    if cosine is None:
        return float("nan")
    return float(torch.rad2deg(torch.acos(torch.tensor(cosine, dtype=torch.float64, device="cpu"))))


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("gradweight.plot needs matplotlib: pip install 'gradweight[plot]'") from error
    return plt


def _figure(figure: Any) -> Figure:
    found: Figure = figure
    return found
