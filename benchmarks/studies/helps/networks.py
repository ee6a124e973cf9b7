"""Small networks of many runs in one batch of matrices: tensors (runs, ...) that are parts of one table (runs, k)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Player", "initial", "perceptron", "with_derivatives"]


def initial(sizes: Sequence[int], random: torch.Generator, gain: float = 1.0) -> list[Tensor]:
    """Weights (inputs, outputs), of deviation ``gain / sqrt(inputs)``, and zero biases (1, outputs) of one run."""
    tensors = []
    for a, b in itertools.pairwise(sizes):
        tensors += [torch.randn(a, b, generator=random) * (gain / math.sqrt(a)), torch.zeros(1, b)]
    return tensors


def perceptron(params: Sequence[Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The networks' outputs, (runs, n, outputs), for x (runs, n, inputs)."""
    for i in range(0, len(params), 2):
        x = torch.baddbmm(params[i + 1], x, params[i])
        x = activation(x) if i < len(params) - 2 else x
    return x


def with_derivatives(params: Sequence[Tensor], points: Tensor, second: Sequence[int]) -> list[Tensor]:
    """Values u of tanh networks, the slopes in both inputs, and the sum of the second derivatives in some of them.

    One pass forward: with ``z`` a layer's inputs, ``h = tanh z`` has the slope ``h' z_x``, ``h' = 1 - h^2``, and the
    curvature ``h' z_xx - 2 h h' z_x^2``.

    Args:
        params: of each run.
        points: (runs, n, 2).
        second: which inputs: (0, 1) is the Laplacian.

    Returns: four tensors (runs, n).
    """
    runs, n, _ = points.shape
    value = torch.baddbmm(params[1], points, params[0])
    slopes = [params[0][:, i : i + 1].expand(runs, n, -1) for i in range(2)]
    curvature = torch.zeros_like(value)
    for i in range(2, len(params), 2):
        h = torch.tanh(value)
        slope_of_h = 1 - h * h
        squares = sum(slopes[j] * slopes[j] for j in second)
        curvature = slope_of_h * (curvature - 2 * h * squares)
        together = torch.cat([h, *(slope_of_h * s for s in slopes), curvature], dim=1) @ params[i]
        value, *slopes, curvature = together.split(n, dim=1)
        value = value + params[i + 1]
    return [t.squeeze(-1) for t in (value, *slopes, curvature)]


class Player:
    """The parameters of one network in each run, and Adam with a learning rate for each."""

    def __init__(self, members: Sequence[Sequence[Tensor]], rates: Tensor) -> None:
        self.flat = torch.stack([torch.cat([t.flatten() for t in tensors]) for tensors in members])
        self.params: list[Tensor] = []
        start = 0
        for t in members[0]:
            part = self.flat[:, start : start + t.numel()].view(-1, *t.shape)
            self.params.append(part.detach().requires_grad_())
            start += t.numel()
        self.rates = rates.to(self.flat)[:, None]
        self.mean, self.square, self.taken = torch.zeros_like(self.flat), torch.zeros_like(self.flat), 0

    def gradient(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """Each run's gradient, (runs, k), of its own loss, (runs,): the runs share nothing, so that one sum will do."""
        parts = torch.autograd.grad(
            loss.sum(), self.params, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
        return torch.cat([t.flatten(1) for t in parts], dim=1)

    @torch.no_grad()
    def descend(self, direction: Tensor, schedule: float, betas: tuple[float, float]) -> None:
        """A step of Adam, at ``schedule`` times each run's learning rate."""
        self.taken += 1
        self.mean.lerp_(direction, 1 - betas[0])
        self.square.mul_(betas[1]).addcmul_(direction, direction, value=1 - betas[1])
        root = (self.square / (1 - betas[1] ** self.taken)).sqrt_().add_(1e-8)
        self.flat.sub_((schedule / (1 - betas[0] ** self.taken)) * self.rates * self.mean / root)
