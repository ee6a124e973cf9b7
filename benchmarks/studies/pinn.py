"""A physics-informed network with two losses: the sum, the sum with a hand-tuned weight, and rules.

    python -m benchmarks.studies.pinn [--steps 2000] [--seeds 3] [--first-seed 0] [--out DIR | --cite]

The network learns u on [0, 1] from u'' = f and u(0) = u(1) = 0, where u(x) = sin(4 pi x) + sin(2 pi x) / 2. The
equation's gradient is hundreds of times as long as the boundary's, so in the plain sum the boundary has no say, and
the network finds a function with the right second derivative and the wrong values. The usual cure is to tune a
weight by hand, which is done here too, over a grid. Reported is the relative L2 error of u after training. Results
are written after every run to ``build/pinn/``, with a picture of the solutions, and the history and conflict pictures
of one run; with ``--cite`` they take the place of those in ``benchmarks/results/pinn/`` when all is done.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, publish, working_folder
from benchmarks.record import machine_record
from gradweight import MultiObjectiveGradient, plot
from gradweight.rules import AngleBisector, Constant, Sum

RULES: dict[str, object] = {
    "Sum": Sum(),
    "Constant, boundary x 100": Constant({"equation": 1.0, "boundary": 1e2}),
    "Constant, boundary x 10,000": Constant({"equation": 1.0, "boundary": 1e4}),
    "Constant, boundary x 1,000,000": Constant({"equation": 1.0, "boundary": 1e6}),
    "AngleBisector": AngleBisector(),
}


def solution(x: Tensor) -> Tensor:
    return torch.sin(4 * math.pi * x) + torch.sin(2 * math.pi * x) / 2


def source(x: Tensor) -> Tensor:
    return -((4 * math.pi) ** 2) * torch.sin(4 * math.pi * x) - (2 * math.pi) ** 2 * torch.sin(2 * math.pi * x) / 2


def losses(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Mean squared residuals of the equation at x, (n, 1) requiring gradients, and of the boundary values."""
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    ends = torch.tensor([[0.0], [1.0]])
    return {
        "equation": (curvature - source(x.detach())).square().mean(),
        "boundary": (net(ends) - solution(ends)).square().mean(),
    }


def train(rule: object, seed: int, steps: int) -> tuple[nn.Module, MultiObjectiveGradient]:
    torch.manual_seed(seed)
    widths = [1, 64, 64, 64]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(64, 1))
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=2e-3), rule, history=steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    for _ in tqdm(range(steps), desc=f"seed {seed}", leave=False, mininterval=0.5):
        x = torch.rand(128, 1, requires_grad=True)
        opt.zero_grad()
        opt.backward(losses(net, x))
        opt.step()
        schedule.step()
    return net, opt


@torch.no_grad()
def error(net: nn.Module) -> float:
    """Relative L2 error of u on a fine grid."""
    x = torch.linspace(0, 1, 1001)[:, None]
    return float((net(x) - solution(x)).norm() / solution(x).norm())


def draw(nets: dict[str, nn.Module], path: Path) -> None:
    x = torch.linspace(0, 1, 401)[:, None]
    figure, axes = plt.subplots(1, len(nets), figsize=(3 * len(nets), 2.8), layout="constrained")
    for axis, (name, net) in zip(axes, nets.items(), strict=True):
        axis.plot(x, solution(x), color="black", lw=3, alpha=0.25, label="solution")
        with torch.no_grad():
            axis.plot(x, net(x), color="C0", lw=1.5, label="network")
        axis.set_title(f"{name}\nerror {error(net):.2g}", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_arguments(parser)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    arguments = parser.parse_args()
    out = working_folder(arguments, "pinn")

    results: dict[str, list[float]] = {}
    first: dict[str, nn.Module] = {}
    start = time.perf_counter()
    for name, rule in RULES.items():
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            net, opt = train(rule, seed, arguments.steps)
            results.setdefault(name, []).append(error(net))
            first.setdefault(name, net)
            record = {"machine": machine_record(), "steps": arguments.steps, "first_seed": arguments.first_seed}
            record["relative_error"] = results
            (out / "pinn.json").write_text(json.dumps(record, indent=2) + "\n")
            if name == "AngleBisector" and seed == arguments.first_seed:
                plot.history(opt.history).savefig(out / "history.png", dpi=100)
                plot.conflicts(opt.history).savefig(out / "conflicts.png", dpi=100)
                print(f"the last step of {name}:\n{opt.last}\n")
        errors = results[name]
        print(f"{name:<42} {statistics.median(errors):10.2g}   {', '.join(f'{e:.2g}' for e in errors)}", flush=True)
    draw(first, out / "pinn.png")
    print(f"{time.perf_counter() - start:.0f} s; pictures and numbers in {out}")
    publish(arguments, out, "pinn")


if __name__ == "__main__":
    main()
