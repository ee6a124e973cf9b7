"""Pictures of what the gradients did: losses, norms, weights and angles over the steps, and who conflicts with whom.

For people; needs matplotlib (``pip install 'gradweight[plot]'``). Each function takes `Combination` objects, such
as an optimizer's ``history``, reads them once and returns a figure.
"""

import math
from collections.abc import Collection, Sequence
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from .combination import Combination, cosine
from .summary import grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["conflicts", "history"]

PANELS = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "weight": "weight",
    "angle": "angle (degrees; obtuse: conflict)",
    "step_angle": "angle to the step (obtuse: rises)",
    "change": "predicted change / learning rate",
}

# of Okabe and Ito, without the yellow that a white page swallows, and a brown: apart for the colour-blind
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777", "#5d3a1a")

_FEW_LOSSES = 3
"""With up to so many the angle of each pair is drawn, three lines at most."""

_WIDE = 30
"""The largest value over a small one from which a logarithmic axis is used."""


def history(
    steps: Sequence[Combination],
    *,
    losses: Collection[str] | None = None,
    panels: Sequence[str] = tuple(PANELS),
    smooth: int = 1,
    axes: "Axes | Sequence[Axes] | None" = None,
) -> "Figure":
    """Panels over the steps: losses, gradient norms, weights; angles in degrees, of the gradients to each other and of
    each to the step; and the first-order change of each loss, which is above zero where it rises.

    Of up to three losses the angle of each pair is drawn; of more, the angle of each loss to the one that it conflicts
    with most. What spans more than a factor of 30 has a logarithmic axis, on both sides of zero where some are
    negative, and its label says so. A loss that is absent on some steps has gaps there. A vector loss of more than 8
    values is one line, their mean.

    Args:
        steps: one `Combination` a step, in order; ``opt.history`` for example.
        losses: names of those to draw; all by default. Angles are among these only.
        panels: which of ``"loss"``, ``"grad_norm"``, ``"weight"``, ``"angle"``, ``"step_angle"`` and ``"change"``, in
            the order to draw them in.
        smooth: each point is the median of so many steps around it, with the values themselves faint behind.
        axes: what to draw on, one for each panel, instead of a new figure; legends are then drawn on the first panel
            and on that of pairs of losses.

    Returns:
        The figure, new or that of ``axes``.

    Raises:
        ValueError: no steps; a loss or panel that is not there; ``smooth`` below 1; another number of axes than panels.
        ImportError: matplotlib is not installed.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> gram = torch.tensor([[4.0, -3.0], [-3.0, 9.0]])
        >>> steps = [Combination(("data", "pde"), torch.rand(2), gram, torch.rand(2)) for _ in range(9)]
        >>> figure = history(steps, panels=["loss", "angle"], smooth=3)
        >>> [axis.get_ylabel() for axis in figure.axes]
        ['loss', 'angle (degrees; obtuse: conflict)']
    """
    names = _chosen(steps, losses, "history")
    unknown = [panel for panel in panels if panel not in PANELS]
    if unknown or not panels:
        raise ValueError(f"panels must be some of {', '.join(PANELS)}; got {', '.join(map(repr, panels)) or 'none'}")
    if smooth < 1:
        raise ValueError(f"smooth must be a number of steps, 1 or more; got {smooth}")
    records = [step.as_dict() for step in steps]
    figure, places = _places(len(panels), axes)
    for place, panel in zip(places, panels, strict=True):
        if panel == "angle":
            _draw_angles(place, records, names, smooth)
        elif panel == "step_angle":
            _draw_angles_to_step(place, records, names, smooth)
        else:
            _draw_values(place, records, names, panel, smooth)
        place.grid(alpha=0.3)
    lowest = places[-2:] if axes is None else places  # of a grid of two columns
    for place in lowest:
        place.set_xlabel("step")
    _legends(figure if axes is None else None, places, panels, names)
    return figure


def conflicts(
    steps: Sequence[Combination], *, losses: Collection[str] | None = None, axes: "Axes | None" = None
) -> "Figure":
    """The conflict matrix: for each pair of losses the mean cosine, and the share of steps with an obtuse angle.

    Args:
        steps: one `Combination` a step; pairs are averaged over the steps where both losses are present.
        losses: names of those to draw, in this order; all by default.
        axes: what to draw on, instead of a new figure.

    Returns:
        The figure, new or that of ``axes``.

    Raises:
        ValueError: no steps; a loss that is not there.
        ImportError: matplotlib is not installed.
    """
    names = _chosen(steps, losses, "conflicts")
    mean, share = _mean_cosines(steps, names)
    if axes is None:
        side = 1.4 + 0.75 * max(len(names), 2)
        figure, axes = _pyplot().subplots(figsize=(side + 1.6, side), layout="constrained")
    else:
        figure = axes.get_figure(root=True)
    off_diagonal = mean.clone().fill_diagonal_(math.nan)  # a loss and itself says nothing
    image = axes.imshow(off_diagonal.numpy(), cmap="RdBu", vmin=-1, vmax=1)
    for i, j in ((i, j) for i in range(len(names)) for j in range(len(names))):
        if i != j and not math.isnan(mean[i, j]):
            text = f"{float(mean[i, j]):+.2f}\n{float(share[i, j]):.0%}"
            colour = "white" if abs(float(mean[i, j])) > 0.6 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    title = "mean cosine, {}share of {} steps in conflict".format("\n" if len(names) < 4 else "", len(steps))
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="mean cosine (below 0: conflict)")
    return _figure(figure)


def _chosen(steps: Sequence[Combination], losses: Collection[str] | None, function: str) -> list[str]:
    if not steps:
        raise ValueError(
            f"plot.{function} needs at least one Combination; got none (was history=n given and step() called?)"
        )
    names = list(dict.fromkeys(name for step in steps for name in grouped(step.names)))
    if losses is None:
        return names
    wanted = [losses] if isinstance(losses, str) else list(losses)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        asked = ", ".join(map(repr, unknown)) or "none"
        raise ValueError(f"plot.{function}: losses must be some of {', '.join(map(repr, names))}; got {asked}")
    return list(dict.fromkeys(wanted))


def _places(panels: int, axes: Any) -> "tuple[Figure, list[Any]]":
    """The figure, and axes for so many panels: two columns of them in a new one."""
    if axes is None:
        columns = min(2, panels)
        rows = -(-panels // columns)
        size = (4.15 * columns, 0.6 + 2.7 * rows)
        figure, grid = _pyplot().subplots(rows, columns, figsize=size, sharex=True, layout="constrained", squeeze=False)
        places = list(grid.flat)
        for empty in places[panels:]:
            empty.set_axis_off()
        return figure, places[:panels]
    places = list(getattr(axes, "flat", axes)) if hasattr(axes, "__iter__") else [axes]
    if len(places) != panels:
        raise ValueError(f"axes must be one for each of {panels} panels; got {len(places)}")
    return _figure(places[0].get_figure(root=True)), places


def _draw_values(place: Any, records: list[dict[str, float]], names: list[str], key: str, smooth: int) -> None:
    everything: list[float] = []
    for i, name in enumerate(names):
        where = f"{key}/{name}"
        values = [record.get(where, record.get(f"{where}.mean", math.nan)) for record in records]
        everything += [value for value in values if math.isfinite(value)]
        _draw_line(place, values, name, smooth, **_look(i))
    sizes = sorted(abs(value) for value in everything if value)
    scale = ""
    if sizes and sizes[-1] > _WIDE * sizes[len(sizes) // 10]:
        if min(everything) > 0:
            place.set_yscale("log")
            scale = " (log scale)"
        else:  # weights may be negative: logarithmic on both sides of a linear stretch
            place.set_yscale("symlog", linthresh=sizes[len(sizes) // 10])
            scale = "\n(log scale on both sides of 0)"
    place.set_ylabel(PANELS[key] + scale)


def _draw_angles_to_step(place: Any, records: list[dict[str, float]], names: list[str], smooth: int) -> None:
    for i, name in enumerate(names):
        cosines = (record.get(f"step_cos/{name}", record.get(f"step_cos/{name}.mean")) for record in records)
        _draw_line(place, [_degrees(found) for found in cosines], name, smooth, **_look(i))
    place.set_ylabel(PANELS["step_angle"])
    _mark_obtuse(place)


def _draw_angles(place: Any, records: list[dict[str, float]], names: list[str], smooth: int) -> None:
    def degrees(record: dict[str, float], a: str, b: str) -> float:
        return _degrees(cosine(record, a, b))

    if len(names) <= _FEW_LOSSES:
        for k, (a, b) in enumerate(combinations(names, 2)):
            look = {"color": "#222222" if len(names) == 2 else _COLOURS[3 + k]}
            _draw_line(place, [degrees(record, a, b) for record in records], f"{a} ~ {b}", smooth, **look)
        place.set_ylabel(PANELS["angle"])
    else:
        for i, name in enumerate(names):
            to_others = [[degrees(record, name, other) for other in names if other != name] for record in records]
            worst = [max((angle for angle in some if angle == angle), default=math.nan) for some in to_others]
            _draw_line(place, worst, name, smooth, **_look(i))
        place.set_ylabel("widest angle to another (degrees)")
    _mark_obtuse(place)


def _mark_obtuse(place: Any) -> None:
    place.axhspan(90, 180, color="#d55e00", alpha=0.08, lw=0)
    place.set(ylim=(0, 180), yticks=range(0, 181, 45))


def _degrees(cosine: float | None) -> float:
    return math.nan if cosine is None or math.isnan(cosine) else math.degrees(math.acos(cosine))


def _draw_line(place: Any, values: list[float], label: str, smooth: int, **look: Any) -> None:
    alone = any(value != value for value in values)  # a point between two gaps makes no line
    look |= {"lw": 1.4, "marker": "." if alone else None, "ms": 4}
    if smooth > 1:
        place.plot(values, **look | {"lw": 0.8, "alpha": 0.25, "ls": "-", "label": f"_{label}"})
        values = _smoothed(values, smooth)
    place.plot(values, label=label, **look)


def _smoothed(values: list[float], width: int) -> list[float]:
    """The median of the values present among so many around each; a gap stays one."""
    before, after = (width - 1) // 2, width // 2

    def around(i: int) -> list[float]:
        return [value for value in values[max(i - before, 0) : i + after + 1] if value == value]

    return [median(around(i)) if value == value else math.nan for i, value in enumerate(values)]


def _look(i: int) -> dict[str, Any]:
    """A colour for each of eight, the second four dashed too; then again with dots."""
    return {"color": _COLOURS[i % 8], "ls": ("-", "--", ":", "-.")[i // 4 % 4]}


def _legends(figure: Any, places: list[Any], panels: Sequence[str], names: list[str]) -> None:
    """Names once, above all panels of a new figure; those of pairs in their panel."""
    pairs = panels.index("angle") if "angle" in panels and len(names) <= _FEW_LOSSES else None
    if pairs is not None and len(names) > 1:
        places[pairs].legend(fontsize=9, ncols=2 if len(names) == 2 else 1, framealpha=0.6)
    by_name = [place for i, place in enumerate(places) if i != pairs]
    if not by_name:
        return
    if figure is None:
        by_name[0].legend(fontsize=9, ncols=1 + (len(names) > 4), framealpha=0.6)
    else:
        handles, labels = by_name[0].get_legend_handles_labels()
        columns = min(len(names), max(1, int(100 / (8 + max(map(len, names))))))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def _mean_cosines(steps: Sequence[Combination], names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosine of each pair, and the share of steps on which it is negative; NaN where two were never together."""
    position = {name: i for i, name in enumerate(names)}
    total = torch.zeros(len(names), len(names), dtype=torch.float64, device="cpu")
    obtuse, seen = torch.zeros_like(total), torch.zeros_like(total)
    for step in steps:
        label = {i: name for name, some in grouped(step.names).items() for i in some if name in position}
        rows = torch.tensor(list(label), dtype=torch.long, device="cpu")
        where = torch.tensor([position[name] for name in label.values()], dtype=torch.long, device="cpu")
        cosines = step.cosines.detach().to("cpu", torch.float64)[rows][:, rows]
        measured = ~cosines.isnan()
        index = where[:, None], where[None, :]
        total.index_put_(index, cosines.nan_to_num(), accumulate=True)
        obtuse.index_put_(index, ((cosines < 0) & measured).double(), accumulate=True)
        seen.index_put_(index, measured.double(), accumulate=True)
    return total / seen, obtuse / seen


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("gradweight.plot needs matplotlib: pip install 'gradweight[plot]'") from error
    return plt


def _figure(figure: Any) -> "Figure":
    found: Figure = figure
    return found
