"""The pictures: what is drawn is what was measured. How they look is for people; see docs/diagnostics.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import nn

from gradweight import Combination, MultiObjectiveGradient, plot
from gradweight.rules import AngleBisector

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture
def steps() -> list[Combination]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=0.05), AngleBisector(), history=20)
    for i in range(25):
        x = torch.randn(16, 3)
        opt.zero_grad()
        losses = {"fit": (net(x) - x[:, :2]).square().mean(), "size": net(x).abs().mean()}
        if i % 5 == 0:
            losses["decay"] = sum(p.square().sum() for p in net.parameters())
        opt.backward(losses)
        opt.step()
    return list(opt.history)


def test_history_draws_every_step(steps: list[Combination], tmp_path: Path) -> None:
    assert len(steps) == 20  # bounded: the last 20 of 25
    figure = plot.history(steps)
    losses, _, weights, angles, to_step, change = figure.axes
    found = drawn(losses)
    np.testing.assert_allclose(found["fit"], [step.as_dict()["loss/fit"] for step in steps])
    assert np.isnan(found["decay"]).sum() == 16  # due on every fifth step
    assert {line.get_label() for line in weights.lines} == {"fit", "size", "decay"}
    between = next(line for line in angles.lines if line.get_label() == "fit ~ size")
    np.testing.assert_allclose(np.asarray(between.get_ydata()), [float(step.angles[0, 1]) for step in steps], rtol=1e-3)
    for axis, field in ((to_step, "step_angles"), (change, "predicted_changes")):
        expected = [float(getattr(step, field)[1]) for step in steps]
        np.testing.assert_allclose(drawn(axis)["size"], expected, rtol=1e-3)
    figure.savefig(tmp_path / "history.png")
    plt.close(figure)


def test_conflicts_counts_obtuse_pairs(steps: list[Combination], tmp_path: Path) -> None:
    figure = plot.conflicts(steps)
    texts = {t.get_position(): t.get_text() for t in figure.axes[0].texts}
    share = np.mean([float(step.cosines[0, 1]) < 0 for step in steps])
    assert texts[(0, 1)].endswith(f"{share:.0%}")
    assert texts[(0, 1)] == texts[(1, 0)]
    figure.savefig(tmp_path / "conflicts.png")
    plt.close(figure)


def test_no_steps() -> None:
    with pytest.raises(ValueError, match=r"plot\.history needs at least one Combination; got none"):
        plot.history([])


@pytest.fixture
def eight() -> list[Combination]:
    """Eight losses on five steps, in whose Gram matrices every two gradients make another angle."""
    torch.manual_seed(1)
    names = tuple(f"task {i}" for i in range(8))
    rows = torch.randn(5, 8, 20, dtype=torch.float64)
    return [Combination(names, torch.rand(8), r @ r.mT, torch.rand(8)) for r in rows]


def drawn(axis: Axes) -> dict[str, np.ndarray]:
    """What stands in the legend, by label."""
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axis.lines}
    return {label: values for label, values in lines.items() if not label.startswith("_")}


def test_of_eight_losses_the_angle_to_the_worst_is_drawn(eight: list[Combination]) -> None:
    figure = plot.history(eight, panels=["angle"])
    (axis,) = figure.axes
    found = drawn(axis)
    assert list(found) == list(eight[0].names)
    for i, name in enumerate(eight[0].names):
        worst = [max(float(step.angles[i, j]) for j in range(8) if j != i) for step in eight]
        np.testing.assert_allclose(found[name], worst)
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len({colour for colour, _ in looks}) == 8
    assert len({style for _, style in looks}) == 2
    plt.close(figure)


def test_names_of_eight_losses_stand_outside_the_panels(eight: list[Combination]) -> None:
    figure = plot.history(eight)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(eight[0].names)
    box = legend.get_window_extent()
    assert not any(box.overlaps(axis.get_window_extent()) for axis in figure.axes)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    plt.close(figure)


def test_losses_and_panels_are_those_asked_for(eight: list[Combination]) -> None:
    figure = plot.history(eight, losses=["task 6", "task 1", "task 2"], panels=["weight", "angle"])
    weights, angles = figure.axes
    assert list(drawn(weights)) == ["task 6", "task 1", "task 2"]
    np.testing.assert_allclose(drawn(weights)["task 6"], [float(step.weights[6]) for step in eight])
    assert list(drawn(angles)) == ["task 6 ~ task 1", "task 6 ~ task 2", "task 1 ~ task 2"]
    plt.close(figure)
    figure = plot.conflicts(eight, losses=["task 6", "task 1"])
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    mean = np.mean([float(step.cosines[6, 1]) for step in eight])
    np.testing.assert_allclose(np.ma.filled(image, np.nan), [[np.nan, mean], [mean, np.nan]])
    plt.close(figure)


def test_smoothing_is_a_median_that_leaves_gaps(steps: list[Combination]) -> None:
    figure = plot.history(steps, panels=["loss"], smooth=3)
    (axis,) = figure.axes
    plain = [step.as_dict()["loss/fit"] for step in steps]
    # the middle of each three; at the ends the two that are there
    expected = [np.median(plain[max(i - 1, 0) : i + 2]) for i in range(len(plain))]
    np.testing.assert_allclose(drawn(axis)["fit"], expected)
    np.testing.assert_allclose(
        next(np.asarray(line.get_ydata()) for line in axis.lines if line.get_label() == "_fit"), plain
    )
    assert np.isnan(drawn(axis)["decay"]).sum() == 16
    assert {line.get_marker() for line in axis.lines if "decay" in str(line.get_label())} == {"."}  # no line of 1 point
    plt.close(figure)


def test_axes_of_ones_own(steps: list[Combination]) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert plot.history(steps, panels=["loss"], axes=left) is figure
    assert list(drawn(left)) == ["fit", "size", "decay"]
    assert left.get_legend() is not None
    assert plot.conflicts(steps, axes=right) is figure
    assert len(right.images) == 1
    plt.close(figure)
    figure, axes = plt.subplots(3, 2)
    assert plot.history(steps, axes=axes) is figure
    assert all(axis.lines for axis in axes.flat)
    plt.close(figure)


@pytest.mark.parametrize(
    ("largest", "negative", "scale"), [(2.0, False, "linear"), (1e4, False, "log"), (1e4, True, "symlog")]
)
def test_a_wide_range_has_an_axis_that_says_it_is_logarithmic(largest: float, negative: bool, scale: str) -> None:
    weights = torch.logspace(0, math.log10(largest), 10)
    if negative:
        weights[3] = -weights[3]
    steps = [Combination(("a", "b"), torch.ones(2), torch.eye(2), torch.stack([w, abs(w)])) for w in weights]
    figure = plot.history(steps, panels=["weight"])
    assert figure.axes[0].get_yscale() == scale
    assert ("log scale" in figure.axes[0].get_ylabel()) == (scale != "linear")
    plt.close(figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": ["fit", "fti"]}, r"plot\.history: losses must be some of 'fit', 'size', 'decay'; got 'fti'"),
        ({"losses": []}, r"losses must be some of .*; got none"),
        (
            {"panels": ["loss", "norm"]},
            r"panels must be some of loss, grad_norm, weight, angle, step_angle, change; got 'loss', 'norm'",
        ),
        ({"panels": []}, r"panels must be some of .*; got none"),
        ({"smooth": 0}, r"smooth must be a number of steps, 1 or more; got 0"),
    ],
)
def test_what_cannot_be_drawn(steps: list[Combination], arguments: dict[str, Any], message: str) -> None:
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message):
        plot.history(steps, **arguments)
    assert plt.get_fignums() == before  # no empty figure stays open


def test_another_number_of_axes_than_panels(steps: list[Combination]) -> None:
    figure, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="axes must be one for each of 6 panels; got 3"):
        plot.history(steps, axes=axes)
    plt.close(figure)


def test_one_loss_has_no_angle(steps: list[Combination]) -> None:
    figure = plot.history(steps, losses="fit")
    assert drawn(figure.axes[3]) == {}
    assert list(drawn(figure.axes[0])) == ["fit"]
    plt.close(figure)


def test_the_default_device_does_not_matter(steps: list[Combination]) -> None:
    with torch.device("meta"):
        for figure in (plot.history(steps), plot.conflicts(steps)):
            plt.close(figure)
