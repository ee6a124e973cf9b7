"""Eight Gaussians on a ring: a plain GAN beside the same GAN with `AdaptiveWeights`, over several seeds.

    python benchmarks/ring.py

prints a table and writes, to benchmarks/results/ring/, the picture of the samples as they develop (ring.png), the
metrics of every run over time (runs.csv), the samples drawn (samples.npz) and the summary with the machine record
(ring.json). Runs are written as they finish; Ctrl-C leaves the table and the picture of those that have.

The question is that of section 5.3 of Adaptive Weighted Discriminator (CVPR 2021, arXiv:2012.03149), which shows one
run of each: a plain GAN that wanders between modes, and the weighted one that settles on all eight. One seed is an
anecdote, so here are several, paired: both methods start from the same networks and see the same data and noise.

The setting is near that section's, which trains as Unrolled GAN does (arXiv:1611.02163, and its public example): eight
modes on the unit circle, two hidden layers of 128 units, Adam with beta1 = 0.5. To fit into minutes of a CPU, noise of
8 dimensions instead of 256, batches of 128 instead of 512, and a rate of 5e-4 for both networks. Our own choices are
ReLU and LeakyReLU(0.2) units, a standard deviation of 0.02 and the non-saturating loss for the generator. The seeds
are 0 to n - 1 and the numbers are those of the last step, whatever comes.

What came out is in benchmarks/results/ring: the plain GAN circles from mode to mode with nearly every seed, the
weighted one spreads over the ring with most, some of them late and not yet sharp. What a longer run would do is not
shown.

How large the difference is depends on how unstable the plain GAN is. Where it finds most of the ring by itself, the
difference is gone: with standard deviation 0.01, noise of 2 dimensions, betas of (0.9, 0.99) and a third hidden layer,
8 seeds of 5,000 steps covered 6.8 modes plain and 7.4 weighted (95% interval of the difference -1.5 to 2.7, and the KL
is 0.3 worse), and with a slope of 0.01 in the discriminator's LeakyReLU as well, 6.9 and 6.3 (-2.2 to 0.9).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from tqdm import tqdm

from gradweight import MultiObjectiveGradient
from gradweight.gan import high_quality_share, mode_kl, modes_covered
from gradweight.rules import AdaptiveWeights

if __package__:
    from .record import machine_record
else:
    from record import machine_record

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# The discriminator's rule; None is the plain GAN, an unwrapped Adam on the summed loss.
METHODS: dict[str, AdaptiveWeights | None] = {
    "plain": None,
    "aw": AdaptiveWeights(),
    "aw-relative": AdaptiveWeights(epsilon_mode="relative"),
    "aw-unnormalized": AdaptiveWeights(normalized=False),
}
COLOURS = dict(zip(METHODS, ["#d1603d", "#1f6f9f", "#3a9278", "#8a5a9e"], strict=True))

STD = 0.02
ANGLES = torch.arange(8) * (2 * math.pi / 8)
MODES = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)

NOISE, WIDTH, BATCH = 8, 128, 128
LEARNING_RATE, BETAS = 5e-4, (0.5, 0.99)

EVALUATED, COLUMNS, DRAWN = 2500, 5, 500
"""Samples in a metric; moments shown in the picture; samples shown in a panel."""


# ---- the GAN, and what changes when the discriminator gets weights


def network(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), activation, nn.Linear(WIDTH, WIDTH), activation, nn.Linear(WIDTH, outputs)
    )


def train(generator: nn.Module, discriminator: nn.Module, rule: Any, steps: int, seed: int) -> Iterator[int]:
    """Train both networks; yields the number of steps taken after each, for whoever wants to look."""
    random = torch.Generator().manual_seed(seed)
    g_opt = torch.optim.Adam(generator.parameters(), LEARNING_RATE, betas=BETAS, fused=True)
    d_opt: torch.optim.Optimizer = torch.optim.Adam(discriminator.parameters(), LEARNING_RATE, betas=BETAS, fused=True)
    if rule is not None:
        d_opt = MultiObjectiveGradient(d_opt, rule)

    for step in range(1, steps + 1):
        mode = torch.randint(len(MODES), (BATCH,), generator=random)
        real = MODES[mode] + STD * torch.randn(BATCH, 2, generator=random)
        fake = generator(torch.randn(BATCH, NOISE, generator=random))

        d_opt.zero_grad()
        real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        losses = {"real": softplus(-real_logits).mean(), "fake": softplus(fake_logits).mean()}
        if isinstance(d_opt, MultiObjectiveGradient):
            scores = {"real_score": real_logits.sigmoid().mean(), "fake_score": fake_logits.sigmoid().mean()}
            d_opt.backward(losses, **scores)
        else:
            (losses["real"] + losses["fake"]).backward()
        d_opt.step()

        g_opt.zero_grad()
        softplus(-discriminator(fake)).mean().backward(inputs=list(generator.parameters()))
        g_opt.step()
        yield step


# ---- one run, and many of them on all cores


@dataclass
class Run:
    """What one training run left: metrics over time, and samples at the moments of the picture."""

    method: str
    seed: int
    steps: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    samples: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0  # of the processor: what else the machine does must not count

    def look(self, step: int, samples: Tensor, keep: bool) -> None:
        """Measure samples, and keep some of them if the picture shows this moment."""
        self.steps.append(step)
        self.modes.append(int(modes_covered(samples, MODES, STD)))
        self.quality.append(float(high_quality_share(samples, MODES, STD)))
        self.kl.append(float(mode_kl(samples, MODES)))
        if keep:
            self.samples[step] = samples[:DRAWN].numpy()


def run(method: str, seed: int, steps: int) -> Run | None:
    """Train one GAN in this process, reporting progress as it goes; None if told to stop."""
    torch.manual_seed(seed)  # both methods start from the same networks, and see the same data and noise
    generator, discriminator = network(NOISE, 2, nn.ReLU()), network(2, 1, nn.LeakyReLU(0.2))
    noise = torch.randn(EVALUATED, NOISE, generator=torch.Generator().manual_seed(seed + 1_000_000))
    shown = {math.ceil(steps * (i + 1) / COLUMNS) for i in range(COLUMNS)}
    looks = shown | {math.ceil(steps * (i + 1) / (5 * COLUMNS)) for i in range(5 * COLUMNS)}

    result, start, reported = Run(method, seed), time.process_time(), 0
    for step in train(generator, discriminator, METHODS[method], steps, seed):
        if step in looks:
            with torch.no_grad():
                result.look(step, generator(noise), keep=step in shown)
        if step % 100 == 0 or step == steps:
            with progress.get_lock():
                progress.value += step - reported
            reported = step
            if stopping.is_set():
                return None
    result.seconds = time.process_time() - start
    return result


def start_worker(counter: Any, stop: Any) -> None:
    global progress, stopping
    progress, stopping = counter, stop
    torch.set_num_threads(1)  # the runs are what is parallel


def run_all(methods: list[str], seeds: int, steps: int, workers: int) -> Iterator[Run]:
    """Every method at every seed, seed by seed; yields each run as it finishes, with a progress bar meanwhile."""
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    jobs = [(method, seed, steps) for seed in range(seeds) for method in methods]
    with (
        ProcessPoolExecutor(min(workers, len(jobs)), context, start_worker, (counter, stop)) as pool,
        tqdm(total=len(jobs) * steps, unit="step", unit_scale=True, desc="training", mininterval=0.5) as bar,
    ):
        # the workers start here, and inherit that they ignore Ctrl-C: it is for this process, which tells them to stop
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        pending: set[Future[Run | None]] = {pool.submit(run, *job) for job in jobs}
        signal.signal(signal.SIGINT, handler)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                for future in done:
                    finished = future.result()
                    if finished is not None:
                        bar.write(
                            f"{finished.method:>16} seed {finished.seed}: {finished.modes[-1]} of 8 modes, "
                            f"{finished.quality[-1]:.0%} high quality, {finished.seconds:.0f} CPU s"
                        )
                        yield finished
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


# ---- what came out


def mean_and_margin(values: list[float]) -> tuple[float, float]:
    """The mean, and the half-width of its 95% confidence interval by Student's t (NaN for one value)."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    # quantiles of Student's t at 97.5%, for 1, 2, ... degrees of freedom
    t = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10]
    quantile = t[len(values) - 2] if len(values) - 2 < len(t) else 2.09
    margin = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return round(statistics.fmean(values), 4), round(margin, 4)


METRICS = {"modes": "modes covered", "quality": "high quality", "kl": "KL (nats)"}


def summarise(runs: list[Run]) -> dict[str, Any]:
    """Means at the end of training with their intervals, and differences to the plain GAN over paired seeds."""
    ends = {(r.method, r.seed): {name: float(getattr(r, name)[-1]) for name in METRICS} for r in runs}
    summary: dict[str, Any] = {"methods": {}, "minus plain": {}}
    for method in dict.fromkeys(r.method for r in runs):
        own = {seed: end for (m, seed), end in ends.items() if m == method}
        entry: dict[str, Any] = {"seeds": sorted(own)}
        entry["all 8 modes"] = sum(end["modes"] == 8 for end in own.values())
        entry["CPU seconds per run"] = round(statistics.fmean(r.seconds for r in runs if r.method == method), 1)
        for name in METRICS:
            entry[name] = mean_and_margin([end[name] for end in own.values()])
        summary["methods"][method] = entry
        paired = [seed for seed in sorted(own) if ("plain", seed) in ends]
        if method != "plain" and paired:
            summary["minus plain"][method] = {"seeds": paired} | {
                name: mean_and_margin([own[s][name] - ends["plain", s][name] for s in paired]) for name in METRICS
            }
    return summary


def report(runs: list[Run], summary: dict[str, Any]) -> str:
    """The table, the result of every seed, and what can be said about the difference."""
    lines = [
        f"{'at the end of training':<24}{'seeds':>6}{'modes covered':>18}{'high quality':>18}{'KL (nats)':>16}"
        f"{'all 8':>8}{'CPU s':>8}"
    ]
    for method, entry in summary["methods"].items():
        cells = [
            "{:.2f} ± {:.2f}".format(*entry["modes"]),
            "{:.1%} ± {:.1%}".format(*entry["quality"]),
            "{:.2f} ± {:.2f}".format(*entry["kl"]),
        ]
        lines.append(
            f"{method:<24}{len(entry['seeds']):>6}{cells[0]:>18}{cells[1]:>18}{cells[2]:>16}"
            f"{entry['all 8 modes']:>8}{entry['CPU seconds per run']:>8}"
        )
    lines += ["", "modes covered by each seed (share of high-quality samples)"]
    for method, entry in summary["methods"].items():
        own = {r.seed: r for r in runs if r.method == method}
        lines.append(
            f"{method:<16}" + "".join(f"{own[s].modes[-1]:>3} ({own[s].quality[-1]:>4.0%})" for s in entry["seeds"])
        )
    for method, difference in summary["minus plain"].items():
        lines += ["", f"{method} minus plain, mean over {len(difference['seeds'])} paired seeds with 95% interval"]
        for name, title in METRICS.items():
            mean, margin = difference[name]
            better = (mean > 0) != (name == "kl")
            clear = abs(mean) > margin
            verdict = ("better" if better else "worse") if clear else "no clear difference at this number of seeds"
            lines.append(f"  {title:<16}{mean:+.2f}  [{mean - margin:+.2f}, {mean + margin:+.2f}]  {verdict}")
    return "\n".join(lines)


def draw(runs: list[Run], methods: list[str], path: Path) -> None:
    """The picture: seed 0 over time for each method, every seed at the end, and the metrics over time."""
    methods = [m for m in methods if any(r.method == m for r in runs)]
    by_key = {(r.method, r.seed): r for r in runs}
    seeds = sorted({r.seed for r in runs})
    first = min((s for s in seeds if all((m, s) in by_key for m in methods)), default=seeds[0])
    shown = sorted(runs[0].samples)

    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.edgecolor": GREY})
    # square panels that fill the width, unless the seeds are few
    heights = [0.5 + 11.6 / len(shown) * len(methods), 0.5 + 11.6 / max(len(seeds), COLUMNS) * len(methods), 2.75]
    figure = plt.figure(figsize=(12, sum(heights)), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights)

    top.suptitle(f"Samples as training goes on, seed {first} (rings: the eight modes)", fontsize=12, x=0.01, ha="left")
    for row, axes in zip(methods, top.subplots(len(methods), len(shown), squeeze=False), strict=True):
        for step, axis in zip(shown, axes, strict=True):
            panel(axis, by_key.get((row, first)), step, size=5)
            if row == methods[0]:
                axis.set_title(f"{step:,} steps", fontsize=10, color=INK)
        axes[0].set_ylabel(row, fontsize=12, color=COLOURS[row], fontweight="bold")

    middle.suptitle("Every seed at the end, with the modes that it covers", fontsize=12, x=0.01, ha="left")
    for row, axes in zip(methods, middle.subplots(len(methods), len(seeds), squeeze=False), strict=True):
        for seed, axis in zip(seeds, axes, strict=True):
            found = by_key.get((row, seed))
            panel(axis, found, shown[-1], size=2)
            if found is not None:
                axis.text(0, 0, f"{found.modes[-1]}", ha="center", va="center", fontsize=12, color=INK)
            if row == methods[-1]:
                axis.set_xlabel(f"seed {seed}", fontsize=9, color=INK)
        axes[0].set_ylabel(row, fontsize=10, color=COLOURS[row], fontweight="bold")

    bottom.suptitle("Over all seeds: mean, and its 95% interval", fontsize=12, x=0.01, ha="left")
    for (name, title), axis in zip(METRICS.items(), bottom.subplots(1, len(METRICS)), strict=True):
        for method in methods:
            own = [r for r in runs if r.method == method]
            steps = own[0].steps
            values = [mean_and_margin([float(getattr(r, name)[i]) for r in own]) for i in range(len(steps))]
            mean, margin = np.array(values).T
            axis.plot(steps, mean, color=COLOURS[method], label=method, linewidth=1.8)
            axis.fill_between(steps, mean - margin, mean + margin, color=COLOURS[method], alpha=0.15, linewidth=0)
        low, high = {"modes": (0, 8.2), "quality": (0, 1), "kl": (0, math.log(8))}[name]
        axis.set(title=title, xlabel="steps", ylim=(low, high), xlim=(0, shown[-1]))
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color=GREY, alpha=0.35, linewidth=0.5)
        if name == "quality":
            axis.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    bottom.axes[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=100)
    plt.close(figure)


INK, GREY = "#333333", "#bbbbbb"


def panel(axis: Any, found: Run | None, step: int, size: float) -> None:
    """One square of samples, over rings where the modes are."""
    axis.scatter(*MODES.T.numpy(), s=22 * size, facecolors="none", edgecolors="#999999", linewidths=0.8, zorder=1)
    if found is not None:
        x, y = found.samples[step].T
        axis.scatter(x, y, s=size, color=COLOURS[found.method], alpha=0.35, linewidths=0, zorder=2)
    axis.set(xlim=(-1.45, 1.45), ylim=(-1.45, 1.45), xticks=[], yticks=[], aspect="equal")


# ---- the files


class Results:
    """The files of one invocation: runs.csv grows with every run, the rest is written by `close`."""

    def __init__(self, out: Path, arguments: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.runs = out, list[Run]()
        self.record = {"machine": machine_record(), "arguments": arguments}
        self.start = time.perf_counter()
        self.append([("method", "seed", "step", *METRICS)], mode="w")

    def add(self, run: Run) -> None:
        """Take a finished run in, and write its metrics at once."""
        self.runs.append(run)
        self.append(
            (run.method, run.seed, step, modes, f"{quality:.4f}", f"{kl:.4f}")
            for step, modes, quality, kl in zip(run.steps, run.modes, run.quality, run.kl, strict=True)
        )

    def append(self, rows: Any, mode: str = "a") -> None:
        """Write rows to runs.csv; the file is closed again after, so that nothing is lost."""
        with (self.out / "runs.csv").open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def close(self, methods: list[str]) -> None:
        """Print the table, write everything else."""
        wall = time.perf_counter() - self.start
        self.runs.sort(key=lambda r: (methods.index(r.method), r.seed))
        summary = summarise(self.runs)
        print(report(self.runs, summary))
        self.record |= {"wall seconds": round(wall, 1), "summary (mean, margin of 95%)": summary}
        # a single seed has no interval, and JSON no NaN
        (self.out / "ring.json").write_text(json.dumps(self.record, indent=1).replace("NaN", "null") + "\n")
        draw(self.runs, methods, self.out / "ring.png")
        # what the picture shows: every moment of the first seed, and the end of the others
        kept = {
            f"{r.method}/{r.seed}/{step}": samples.astype(np.float16)
            for r in self.runs
            for step, samples in r.samples.items()
            if r.seed == min(x.seed for x in self.runs) or step == r.steps[-1]
        }
        np.savez_compressed(self.out / "samples.npz", **kept)
        print(f"\n{wall:.0f} s; wrote {', '.join(sorted(p.name for p in self.out.iterdir()))} to {self.out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("--steps", type=int, default=6000, help="steps of each run (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=8, help="seeds 0..n-1, each for every method (default: %(default)s)"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["plain", "aw"], help="default: plain aw")
    parser.add_argument(
        "--out", type=Path, default=here / "results" / "ring", help="folder (default: beside the script)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    arguments = parser.parse_args()

    settings = {name: getattr(arguments, name) for name in ("steps", "seeds", "methods", "workers")}
    results = Results(arguments.out, settings)
    try:
        for finished in run_all(arguments.methods, arguments.seeds, arguments.steps, arguments.workers):
            results.add(finished)
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is of the runs that had finished")
    if results.runs:
        results.close(arguments.methods)


if __name__ == "__main__":
    main()
