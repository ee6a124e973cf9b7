"""Two equations, each to be solved by a network that sees the residual and the conditions as separate losses."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import tanh

from benchmarks.studies.helps.networks import initial, perceptron, with_derivatives
from gradweight.rule import Rule
from gradweight.rules import PINNNormAnnealing

__all__ = ["Burgers", "Helmholtz"]

SIZES = (2, 20, 20, 20, 1)
VISCOSITY = 0.05
WAVES = (1, 2)
"""Half-waves of Helmholtz's solution in each direction, ``u = sin(a pi x) sin(b pi y)``."""


def _uniform(random: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=random) - 1


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean(-1)


def _relative_error(params: Sequence[Tensor], points: Tensor, solution: Tensor) -> dict[str, Tensor]:
    found = perceptron(params, points.expand(len(params[0]), -1, -1), tanh).squeeze(-1)
    return {"relative error": (found - solution).norm(dim=-1) / solution.norm()}


@dataclass
class _Equation:
    name: str
    losses: tuple[str, ...]
    emphasis: tuple[dict[str, float], ...]
    steps: int = 600
    rate: float = 1.6e-2
    betas: tuple[float, float] = (0.9, 0.999)
    trivial: float = 1.0
    extra: dict[str, Rule] = field(default_factory=lambda: {"PINNNormAnnealing": PINNNormAnnealing("equation")})

    def networks(self, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """A tanh network; no opponent."""
        return initial(SIZES, random), []

    def opponent_loss(self, params: Sequence[Tensor], opponent: Sequence[Tensor], batch: Sequence[Tensor]) -> Tensor:
        """There is none."""
        raise NotImplementedError("an equation has no opponent")


class Burgers(_Equation):
    """``u_t + u u_x = nu u_xx`` for t in [0, 1] and x in [-1, 1], ``u(0, x) = -sin(pi x)``, 0 at both ends."""

    def __init__(self) -> None:
        conditions = ("initial", "boundary")
        emphasis = tuple(dict.fromkeys(conditions, w) for w in (1.0, 10.0, 100.0))
        super().__init__("Burgers", ("equation", *conditions), emphasis)

    def batches(self, random: torch.Generator, count: int) -> list[Tensor]:
        """Points inside, and those where the conditions hold."""
        times, places = torch.rand(count, 64, 1, generator=random), _uniform(random, count, 64, 1)
        return [torch.cat([times, places], -1), _uniform(random, count, 24), torch.rand(count, 24, generator=random)]

    def terms(
        self, params: Sequence[Tensor], opponent: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Mean squared residuals of the equation and of its conditions."""
        points, places, times = batch
        u, u_t, u_x, u_xx = with_derivatives(params, points, (1,))
        ends = torch.where(torch.arange(times.shape[-1]) % 2 == 0, 1.0, -1.0).expand_as(times)
        where = torch.cat([torch.stack([torch.zeros_like(places), places], -1), torch.stack([times, ends], -1)], dim=1)
        values = perceptron(params, where, tanh).squeeze(-1)
        start, end = values.split([places.shape[-1], times.shape[-1]], dim=1)
        equation = u_t + u * u_x - VISCOSITY * u_xx
        return [_mean_square(equation), _mean_square(start + torch.sin(math.pi * places)), _mean_square(end)], {}

    def parts(self, params: Sequence[Tensor], opponent: Sequence[Tensor]) -> dict[str, Tensor]:
        """The relative L2 error of u on a grid."""
        return _relative_error(params, *burgers_solution())


@functools.cache
def burgers_solution(n: int = 33) -> tuple[Tensor, Tensor]:
    """Points (n^2, 2) and the solution there, by the transform of Cole and Hopf.

    ``u = -int sin(pi (x - y)) f(x - y) k(y) dy / int f(x - y) k(y) dy``, with ``f(y) = exp(-cos(pi y) / (2 pi nu))``
    and k the kernel of heat, ``exp(-y^2 / (4 nu t))``: Gauss-Hermite quadrature in ``y / sqrt(4 nu t)``.
    """
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    t, x = (a.reshape(-1, 1) for a in np.meshgrid(np.linspace(0, 1, n), np.linspace(-1, 1, n), indexing="ij"))
    y = x - nodes * np.sqrt(4 * VISCOSITY * t)
    f = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * VISCOSITY))
    u = -(np.sin(np.pi * y) * f).sum(1) / f.sum(1)
    return torch.tensor(np.hstack([t, x]), dtype=torch.float32), torch.tensor(u, dtype=torch.float32)


class Helmholtz(_Equation):
    """``u_xx + u_yy + u = q`` on the square [-1, 1]^2, 0 on its sides; q is that of a known solution."""

    def __init__(self) -> None:
        super().__init__("Helmholtz", ("equation", "boundary"), tuple({"boundary": w} for w in (1.0, 30.0, 1000.0)))

    def batches(self, random: torch.Generator, count: int) -> list[Tensor]:
        """Points inside, and those where the conditions hold."""
        along, side = _uniform(random, count, 48), torch.arange(48) % 4
        across = torch.where(side % 2 == 0, 1.0, -1.0).expand_as(along)
        upright = side < 2
        sides = torch.stack([torch.where(upright, across, along), torch.where(upright, along, across)], -1)
        return [_uniform(random, count, 64, 2), sides]

    def terms(
        self, params: Sequence[Tensor], opponent: Sequence[Tensor], batch: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Mean squared residuals of the equation and of its conditions."""
        points, sides = batch
        u, _, _, laplacian = with_derivatives(params, points, (0, 1))
        source = (1 - math.pi**2 * sum(a * a for a in WAVES)) * waves(points)
        boundary = perceptron(params, sides, tanh).squeeze(-1)
        return [_mean_square(laplacian + u - source), _mean_square(boundary)], {}

    def parts(self, params: Sequence[Tensor], opponent: Sequence[Tensor]) -> dict[str, Tensor]:
        """The relative L2 error of u on a grid."""
        line = torch.linspace(-1, 1, 33)
        points = torch.cartesian_prod(line, line)
        return _relative_error(params, points, waves(points))


def waves(points: Tensor) -> Tensor:
    """The solution of Helmholtz's equation, (...,), at points (..., 2)."""
    x, y = (points[..., i] * (math.pi * a) for i, a in enumerate(WAVES))
    return torch.sin(x) * torch.sin(y)
