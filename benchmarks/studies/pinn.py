"""A physics-informed network with two losses: the sum, the sum with a hand-tuned weight, and rules.

    python -m benchmarks.studies.pinn [--steps 2000] [--seeds 3] [--first-seed 0] [--out DIR | --cite] [--draw]

The network learns u on [0, 1] from u'' = f and u(0) = u(1) = 0, where u(x) = sin(4 pi x) + sin(2 pi x) / 2. The
equation's gradient is hundreds of times as long as the boundary's, so in the plain sum the boundary has no say, and
the network finds a function with the right second derivative and the wrong values. The usual cure is to tune a
weight by hand, which is done here too, over a grid. Reported is the relative L2 error of u after training. Results
are written after every run to ``build/pinn/``: pinn.json, the solutions found (solutions.npz) and the steps of the
median run with AngleBisector (steps.npz), from which the pictures are drawn; ``--draw`` draws them again. With
``--cite`` they take the place of those in ``benchmarks/results/pinn/`` when all is done.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.folders import CITED, add_output_arguments, publish, working_folder
from benchmarks.pictures import BLUE, GREY, INK, ORANGE, RED, darker, log_axis, panels, picture, save
from benchmarks.record import machine_record
from gradweight import Combination, MultiObjectiveGradient, plot
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


GRID = torch.linspace(0, 1, 201)[:, None]


def median_seed(errors: list[float]) -> int:
    """The seed whose error is the (lower) median."""
    return errors.index(statistics.median_low(errors))


def keep_steps(steps: Sequence[Combination], path: Path) -> None:
    """What the pictures of one run are drawn from; every step has the same losses."""
    arrays = {name: torch.stack([getattr(step, name) for step in steps]) for name in ("losses", "gram", "weights")}
    np.savez_compressed(path, names=steps[0].names, **{name: array.numpy() for name, array in arrays.items()})


def kept_steps(path: Path) -> list[Combination]:
    """The steps that `keep_steps` wrote."""
    kept = np.load(path)
    names = tuple(map(str, kept["names"]))
    each = (torch.from_numpy(kept[name]) for name in ("losses", "gram", "weights"))
    return [
        Combination(names=names, losses=losses, gram=gram, weights=weights)
        for losses, gram, weights in zip(*each, strict=True)
    ]


SHOWN = {"Sum": RED, "Constant, boundary x 1,000,000": ORANGE, "AngleBisector": BLUE}


@picture()
def draw_solutions(errors: dict[str, list[float]], solutions: dict[str, np.ndarray], path: Path) -> None:
    """Left the error of each seed and the median, by method; right what the median run found, for three of them."""
    figure, axes = panels(1, 2, 3.4, width_ratios=[1.15, 1])
    left, right = axes[0]
    for row, (name, found) in enumerate(errors.items()):
        colour = SHOWN.get(name, GREY)
        left.plot(found, [row] * len(found), "o", color=colour, ms=5, alpha=0.45, mew=0)
        middle = statistics.median(found)
        left.plot(middle, row, "|", color=colour, ms=18, mew=2.5)
        left.annotate(
            f"{middle:.2g}", (middle, row), (0, 11), textcoords="offset points", ha="center", color=darker(colour)
        )
    left.set_yticks(range(len(errors)), [name.replace("Constant", "by hand") for name in errors])
    left.set(ylim=(len(errors) - 0.4, -0.8), xlim=(5e-5, 40), title="Error of each seed, and the median")
    log_axis(left, "x", "relative L2 error of u", [1e-4, 1e-3, 1e-2, 0.1, 1, 10])
    x = GRID[:, 0].numpy()
    right.plot(x, solution(GRID)[:, 0], color=INK, lw=6, alpha=0.2, solid_capstyle="round")
    places = {"Sum": (0.36, 5.4), "Constant, boundary x 1,000,000": (0.02, -3.4), "AngleBisector": (0.56, 2.6)}
    for name, colour in SHOWN.items():
        if name in errors:
            right.plot(x, solutions[name][median_seed(errors[name])], color=colour)
            right.text(*places[name], name.replace("Constant, boundary", "boundary"), color=darker(colour))
    right.text(0.02, -5.2, "grey: the exact solution", color=GREY)
    right.set(xlabel="x", ylabel="u(x)", title="What the median run found", xlim=(0, 1))
    save(figure, path)


def draw(out: Path) -> None:
    """All pictures, from what is kept in the folder."""
    errors = json.loads((out / "pinn.json").read_text())["relative_error"]
    with np.load(out / "solutions.npz") as kept:
        draw_solutions(errors, dict(kept), out / "pinn.png")
    steps = kept_steps(out / "steps.npz")
    with picture():
        save(plot.history(steps, smooth=25), out / "history.png")
        save(plot.conflicts(steps), out / "conflicts.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output_arguments(parser)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--draw", action="store_true", help="train nothing, draw the pictures of what is there")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.out or CITED / "pinn")
        return
    out = working_folder(arguments, "pinn")

    results: dict[str, list[float]] = {}
    solutions: dict[str, list[np.ndarray]] = {}
    histories: list[list[Combination]] = []
    start = time.perf_counter()
    for name, rule in RULES.items():
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            net, opt = train(rule, seed, arguments.steps)
            results.setdefault(name, []).append(error(net))
            solutions.setdefault(name, []).append(net(GRID)[:, 0].detach().numpy())
            record = {"machine": machine_record(), "steps": arguments.steps, "first_seed": arguments.first_seed}
            record["relative_error"] = results
            (out / "pinn.json").write_text(json.dumps(record, indent=2) + "\n")
            np.savez_compressed(out / "solutions.npz", **solutions)
            if name == "AngleBisector":
                histories.append(list(opt.history))
        errors = results[name]
        print(f"{name:<42} {statistics.median(errors):10.2g}   {', '.join(f'{e:.2g}' for e in errors)}", flush=True)
    median = histories[median_seed(results["AngleBisector"])]
    keep_steps(median, out / "steps.npz")
    print(f"the last step of AngleBisector's median run:\n{median[-1]}\n")
    draw(out)
    print(f"{time.perf_counter() - start:.0f} s; pictures and numbers in {out}")
    publish(arguments, out, "pinn")


if __name__ == "__main__":
    main()
