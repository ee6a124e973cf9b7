"""The pictures: what is drawn is what was measured. How they look is for people; see docs/diagnostics.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
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
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in losses.lines}
    np.testing.assert_allclose(drawn["fit"], [step.as_dict()["loss/fit"] for step in steps])
    assert np.isnan(drawn["decay"]).sum() == 16  # due on every fifth step
    assert {line.get_label() for line in weights.lines} == {"fit", "size", "decay"}
    between = next(line for line in angles.lines if line.get_label() == "fit ~ size")
    np.testing.assert_allclose(np.asarray(between.get_ydata()), [float(step.angles[0, 1]) for step in steps], rtol=1e-3)
    for axis, field in ((to_step, "step_angles"), (change, "predicted_changes")):
        line = next(line for line in axis.lines if line.get_label() == "size")
        expected = [float(getattr(step, field)[1]) for step in steps]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected, rtol=1e-3)
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


def test_the_default_device_does_not_matter(steps: list[Combination]) -> None:
    with torch.device("meta"):
        for figure in (plot.history(steps), plot.conflicts(steps)):
            plt.close(figure)
