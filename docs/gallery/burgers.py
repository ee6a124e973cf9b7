"""Burgers' equation by a physics-informed network with three losses.

    python docs/gallery/burgers.py [--quick]

u_t + u u_x = nu u_xx on [-1, 1] x [0, 1] with u(x, 0) = -sin(pi x) and u(-1, t) = u(1, t) = 0: a wave that steepens in
the middle. The residual of the equation, the initial values and the boundary values are three losses, of which the
plain sum hears the one with the longest gradient. `NashMTL` goes by none of their scales, and its weights are positive.
The exact solution is known as an integral (Cole and Hopf), so that the error can be measured. One seed of each.
"""

from __future__ import annotations

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from _common import save, start
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient, Rule, plot
from gradweight.rules import NashMTL, Sum

NU = 0.05 / math.pi


def exact(x: np.ndarray, t: float) -> np.ndarray:
    """Cole and Hopf's integral by 200 points of Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite.hermgauss(200)
    y = x[:, None] - math.sqrt(4 * NU * t) * nodes
    potential = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    return -(potential * np.sin(np.pi * y)).sum(1) / potential.sum(1)


def derivative(u: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(u.sum(), of, create_graph=True)[0]


def losses(net: nn.Module) -> dict[str, Tensor]:
    """Mean squares at random points, new ones on each step."""
    points = torch.rand(512, 2) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
    points.requires_grad_()
    u = net(points)
    u_x, u_t = derivative(u, points).unbind(1)
    u_xx = derivative(u_x, points)[:, 0]
    x, t = 2 * torch.rand(128, 1) - 1, torch.rand(128, 1)
    initial = net(torch.cat([x, torch.zeros_like(x)], 1)) + torch.sin(math.pi * x)
    boundary = net(torch.cat([torch.sign(x), t], 1))
    return {
        "equation": (u_t + u[:, 0] * u_x - NU * u_xx).square().mean(),
        "initial": initial.square().mean(),
        "boundary": boundary.square().mean(),
    }


def train(rule: Rule, steps: int) -> tuple[nn.Module, MultiObjectiveGradient]:
    torch.manual_seed(0)
    sizes = [2, 32, 32, 32]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    net = nn.Sequential(*hidden, nn.Linear(32, 1))
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=3e-3), rule, history=steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for _ in range(steps):
        opt.zero_grad()
        opt.backward(losses(net))
        opt.step()
        schedule.step()
    return net, opt


def main() -> None:
    options = start(__doc__)
    steps = 4 if options.quick else 2000
    figure, axes = plt.subplots(2, 2, figsize=(8.3, 6))
    x = np.linspace(-1, 1, 201)
    times = (0.25, 0.5, 0.75)
    for axis, rule in zip(axes[0], (Sum(), NashMTL()), strict=True):
        net, opt = train(rule, steps)
        with torch.no_grad():
            grid = [torch.tensor(np.stack([x, np.full_like(x, t)], 1), dtype=torch.float32) for t in times]
            found = np.stack([net(points)[:, 0].numpy() for points in grid])
        truth = np.stack([exact(x, t) for t in times])
        error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
        print(f"{type(rule).__name__}: relative error {error:.2g}", flush=True)
        for i, t in enumerate(times):
            axis.plot(x, truth[i], color="#222222", lw=5, alpha=0.2)
            axis.plot(x, found[i], color=f"C{i}", label=f"t = {t:g}")
        axis.set(title=f"{type(rule).__name__}: relative error {error:.2g}", xlabel="x", ylabel="u(x, t)")
        axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        axis.grid()
        axis.legend()
    plot.history(opt.history, panels=["loss", "weight"], smooth=41, axes=axes[1])
    figure.suptitle("Above what the networks found, grey the exact solution; below the steps of NashMTL")
    save(figure, "burgers.png", options)


if __name__ == "__main__":
    main()
