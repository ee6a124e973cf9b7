"""Where rules lead on the two-objective problem of CAGrad and Nash-MTL."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.pictures import BLUE, INK, RED, panels, picture, save
from benchmarks.record import machine_record
from benchmarks.rules.calls import caller, statistics_of, takes, write
from gradweight.rule import CoordinateRule
from gradweight.rules.claims import CLAIMS, Claims

__all__ = ["run_toy"]

STARTS = np.array([[-8.5, 7.5], [-8.5, 5.0], [0.0, 0.0], [9.0, 9.0], [10.0, -8.0]])
SCALES = np.array([0.1, 1.0])
LEARNING_RATE = 0.02


def objectives(x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """The two losses and their gradients, (2,) and (2, 2); arXiv:2202.01017, Appendix."""
    losses, rows = np.zeros(2), np.zeros((2, 2))
    sech2 = 1 - np.tanh(y) ** 2
    upper, lower = np.tanh(0.5 * y), np.tanh(-0.5 * y)
    slope = 0.5 * (1 - np.tanh(0.5 * y) ** 2)
    for i, (shift, offset, centre) in enumerate(((-7.0, 0.0, 7.0), (3.0, 2.0, -7.0))):
        inner = 0.5 * (-x + shift) + np.tanh(y) + offset
        size = max(abs(inner), 5e-6)
        f = np.log(size) + 6
        df = np.array([-0.5, sech2]) / inner if abs(inner) > 5e-6 else np.zeros(2)
        g = ((-x + centre) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20
        dg = np.array([-2 * (centre - x), 0.2 * (y + 8)]) / 10
        losses[i] = max(upper, 0) * f + max(lower, 0) * g
        rows[i] = max(upper, 0) * df + max(lower, 0) * dg
        # at 0 both, as a clamp's derivative is 1 at its bound: the start (0, 0) would never move otherwise
        rows[i, 1] += (slope * f if upper >= 0 else 0) - (slope * g if lower >= 0 else 0)
    return SCALES * losses, SCALES[:, None] * rows


def trajectory(claims: Claims, start: np.ndarray, steps: int, lr: float) -> np.ndarray:
    """Adam (0.9, 0.99) along the rule's direction, (steps + 1, 2)."""
    call, state = caller(claims), None
    point, first, second = start.copy(), np.zeros(2), np.zeros(2)
    points = [point.copy()]
    for step in range(steps):
        losses, rows = objectives(*point)
        # losses from which the rules that take logarithms see positive numbers; it changes no gradient
        shifted = losses + 25 * SCALES
        if isinstance(claims.rule, CoordinateRule):
            direction, state = call(rows, shifted, step, state, {})
        else:
            weights, state = call(rows @ rows.T, shifted, step, state, statistics_of(rows))
            direction = rows.T @ weights
        first, second = 0.9 * first + 0.1 * direction, 0.99 * second + 0.01 * direction**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        point = point - lr * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        points.append(point.copy())
    return np.array(points)


def stationarity(point: np.ndarray) -> float:
    """Length of the shortest convex combination of the two unit gradients: 0 at a Pareto stationary point."""
    _, rows = objectives(*point)
    units = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return float(np.linalg.norm(units.sum(0)) / 2)


def on_the_front(point: np.ndarray) -> bool:
    """Within half a unit of the front, the segment from (-7, -8.4) to (7, -8.4).

    At its ends one gradient vanishes, so that the angle between the two says nothing there.
    """
    return bool(abs(point[1] + 8.4) < 0.5 and abs(point[0]) < 7.5)


def run_toy(steps: int, out: Path) -> None:
    # once each: an instance can be in the list twice, with more claims for two losses than for many
    chosen = [claims for i, claims in enumerate(CLAIMS) if takes(claims, 2) and not _listed(claims, CLAIMS[:i])]
    record: dict[str, Any] = {
        "machine": machine_record(),
        "steps": steps,
        "lr": LEARNING_RATE,
        "starts": STARTS.tolist(),
        "rules": {},
    }
    paths: dict[str, list[np.ndarray]] = {}
    for claims in tqdm(chosen, desc="toy"):
        began = time.perf_counter()
        paths[claims.name] = [trajectory(claims, start, steps, LEARNING_RATE) for start in STARTS]
        ends = [path[-1] for path in paths[claims.name]]
        record["rules"][claims.name] = {
            "ends": [end.round(3).tolist() for end in ends],
            "losses": [objectives(*end)[0].round(4).tolist() for end in ends],
            "stationarity": [round(stationarity(end), 4) for end in ends],
            "on_the_front": sum(on_the_front(end) for end in ends),
            "seconds": round(time.perf_counter() - began, 1),
        }
    write(out, "toy", record)
    keep_paths(paths, out)
    draw_toy(record["rules"], out)


def keep_paths(paths: dict[str, list[np.ndarray]], out: Path) -> None:
    """Every twentieth point and the last, for the picture, in half precision, which is a hundredth of a unit."""
    thinned = {name: [np.vstack([path[:-1:20], path[-1:]]) for path in some] for name, some in paths.items()}
    np.savez_compressed(out / "toy.npz", **{name: np.array(some, np.float16) for name, some in thinned.items()})


def _listed(claims: Claims, others: tuple[Claims, ...]) -> bool:
    return any(claims.rule == other.rule for other in others)


@picture()
def draw_toy(found: dict[str, Any], out: Path) -> None:
    """A panel for each rule, from ``toy.npz``: its paths over the sum of the two objectives, unscaled."""
    with np.load(out / "toy.npz") as kept:
        paths = dict(kept)
    xs = np.linspace(-11, 11, 121)
    total = np.array([[(objectives(x, y)[0] / SCALES).sum() for x in xs] for y in xs])
    columns = 5
    rows = -(-len(paths) // columns)
    figure, grid = panels(rows, columns, 0.6 + 1.62 * rows, sharex=True, sharey=True)
    for axes in grid.flat[len(paths) :]:
        axes.axis("off")
    for axes, (name, some) in zip(grid.flat, paths.items(), strict=False):
        axes.contourf(xs, xs, total, levels=25, cmap="Greys", alpha=0.45)
        axes.plot([-7, 7], [-8.3, -8.3], color=INK, lw=3, solid_capstyle="round")
        for path in some.astype(float):
            axes.plot(*path.T, color=BLUE, lw=1.3)
            axes.plot(*path[0], "o", color=INK, ms=3.5)
            axes.plot(*path[-1], "*", color=RED, ms=8, mew=0)
        axes.set_title(name.replace("(", "\n("), fontsize=9, loc="center")
        share = f"{found[name]['on_the_front']} of {len(some)}"
        axes.text(0.5, 0.9, share, transform=axes.transAxes, ha="center", va="center")
        axes.set(xlim=(-11, 11), ylim=(-11, 11), xticks=(-10, 0, 10), yticks=(-10, 0, 10), aspect="equal")
        axes.grid(False)
    figure.supxlabel("first parameter")
    figure.supylabel("second parameter")
    figure.suptitle("From the dots to the stars; the thick line is the Pareto front, in each panel how many end on it")
    save(figure, out / "toy.png")
