"""The pictures of the theory page show what the theorems say; and where the modes of the ring are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks.studies.ring.compare_runs import MODES
from benchmarks.studies.theory import draw
from gradweight.gan import Alpha


def test_the_pull_is_c() -> None:
    """At 1 and 3, from the densities as they are written in the text."""
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def normal(centre: float, spread: float) -> torch.Tensor:
        return (-((x - centre) ** 2) / (2 * spread**2)).exp() / spread / math.sqrt(2 * math.pi)

    ratio = (normal(0.0, 0.4) + normal(4.0, 0.4)) / 2 / normal(0.5, 0.5)
    d = ratio**0.5 / (1 + ratio**0.5)
    found = draw.pull(x, Alpha(0.5, 1.2, saturating=True))
    torch.testing.assert_close(found, 0.5 * d * (1 - d) ** (1 - 1 / 1.2), rtol=1e-6, atol=0)
    found = draw.pull(x, Alpha(0.5, 1.2))
    torch.testing.assert_close(found, 0.5 * (1 - d) * d ** (1 - 1 / 1.2), rtol=1e-6, atol=0)


def test_the_games_are_least_where_they_should_be() -> None:
    values = draw.weighted_game(torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0]), 2.0, 0.5)
    assert values[2] == pytest.approx(0, abs=1e-9)
    assert values[1] == pytest.approx(values[3], rel=1e-6)
    assert 1e-4 < values[3] < values[4]
    errors, roots = draw.assisted_game(torch.tensor([0.0, 0.01, -0.02])).values()
    for values in (errors, roots):
        assert values[0] < 1e-15
        assert 1e-5 < values[1] < values[2]


@pytest.mark.slow
def test_it_draws(tmp_path: Path) -> None:
    draw.main(["--out", str(tmp_path)])
    assert all((tmp_path / f"{name}.png").stat().st_size > 20_000 for name in ("pull", "games"))


def test_the_modes_of_the_ring() -> None:
    """Eight, on the unit circle, next to each other at one distance; with sin(2 pi / 8) as printed, five on a line."""
    torch.testing.assert_close(MODES.norm(dim=1), torch.ones(8))
    gaps = torch.pdist(MODES)
    torch.testing.assert_close(gaps.sort().values[:8], torch.full((8,), 2 * math.sin(math.pi / 8)))
    angles = 2 * math.pi / 8 * torch.arange(1, 9, dtype=torch.float64)
    printed = torch.stack([angles.cos(), torch.full_like(angles, math.sin(2 * math.pi / 8))], dim=1)
    assert len(printed.mul(1e6).round().unique(dim=0)) == 5
    assert printed[:, 1].unique().numel() == 1
