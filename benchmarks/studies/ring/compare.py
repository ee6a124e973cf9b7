"""Eight Gaussians on a ring: a plain GAN beside the same GAN with `AdaptiveWeights`, over several seeds.

    python -m benchmarks.studies.ring.compare [--setting stable]

prints a table and writes, to build/ring/, the picture of the samples as they develop (ring.png), the
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

What came out of 40 seeds from 100 on, which chose nothing, is in benchmarks/results/ring: 16 plain and 25 weighted GANs
cover all eight modes, 11 and 4 none. What a single seed does is chance, and differs between processors. What a longer
run would do is not shown.

How large the difference is depends on how unstable the plain GAN is. Where it finds most of the ring by itself, the
difference is gone: ``--setting stable --steps 5000`` has a standard deviation of 0.01, noise of 2 dimensions, betas of
(0.9, 0.99) and a third hidden layer, and writes to benchmarks/results/ring_stable. There the plain GAN covers 6.8 modes
in the mean over 8 seeds and the weighted one 7.4 (95% interval of the difference -1.0 to 2.3).
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.studies.ring.compare_figure import draw
from benchmarks.studies.ring.compare_runs import MODES, Results, Run, read_runs
from gradweight import MultiObjectiveGradient
from gradweight.rules import AdaptiveWeights

# The discriminator's rule; None is the plain GAN, an unwrapped Adam on the summed loss.
METHODS: dict[str, AdaptiveWeights | None] = {
    "plain": None,
    "aw": AdaptiveWeights(),
    "aw-relative": AdaptiveWeights(epsilon_mode="relative"),
    "aw-unnormalized": AdaptiveWeights(normalized=False),
}

WIDTH, BATCH, LEARNING_RATE = 128, 128, 5e-4


@dataclass(frozen=True)
class Setting:
    """What makes the plain GAN more or less stable: the modes' spread, the noise, hidden layers, Adam's betas."""

    std: float
    noise: int
    hidden: int
    betas: tuple[float, float]


SETTINGS = {"unstable": Setting(0.02, 8, 2, (0.5, 0.99)), "stable": Setting(0.01, 2, 3, (0.9, 0.99))}

EVALUATED, COLUMNS = 2500, 5
"""Samples in a metric; moments shown in the picture."""


# ---- the GAN, and what changes when the discriminator gets weights


def network(inputs: int, outputs: int, activation: nn.Module, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(hidden):
        layers += [nn.Linear(WIDTH if i else inputs, WIDTH), activation]
    return nn.Sequential(*layers, nn.Linear(WIDTH, outputs))


def train(
    generator: nn.Module, discriminator: nn.Module, rule: Any, setting: Setting, steps: int, seed: int
) -> Iterator[int]:
    """Train both networks; yields the number of steps taken after each, for whoever wants to look."""
    random = torch.Generator().manual_seed(seed)
    adam = functools.partial(torch.optim.Adam, lr=LEARNING_RATE, betas=setting.betas, fused=True)
    g_opt, d_opt = adam(generator.parameters()), adam(discriminator.parameters())
    if rule is not None:
        d_opt = MultiObjectiveGradient(d_opt, rule)  # type: ignore[assignment]

    for step in range(1, steps + 1):
        mode = torch.randint(len(MODES), (BATCH,), generator=random)
        real = MODES[mode] + setting.std * torch.randn(BATCH, 2, generator=random)
        fake = generator(torch.randn(BATCH, setting.noise, generator=random))

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


def run(method: str, seed: int, setting: Setting, steps: int) -> Run | None:
    """Train one GAN in this process, reporting progress as it goes; None if told to stop."""
    torch.manual_seed(seed)  # both methods start from the same networks, and see the same data and noise
    generator = network(setting.noise, 2, nn.ReLU(), setting.hidden)
    discriminator = network(2, 1, nn.LeakyReLU(0.2), setting.hidden)
    noise = torch.randn(EVALUATED, setting.noise, generator=torch.Generator().manual_seed(seed + 1_000_000))
    shown = {math.ceil(steps * (i + 1) / COLUMNS) for i in range(COLUMNS)}
    looks = shown | {math.ceil(steps * (i + 1) / (5 * COLUMNS)) for i in range(5 * COLUMNS)}

    result, start, reported = Run(method, seed, setting.std), time.process_time(), 0
    for step in train(generator, discriminator, METHODS[method], setting, steps, seed):
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


def run_all(methods: list[str], seeds: range, setting: Setting, steps: int, workers: int) -> Iterator[Run]:
    """Every method at every seed, seed by seed; yields each run as it finishes, with a progress bar meanwhile."""
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    jobs = [(method, seed, setting, steps) for seed in seeds for method in methods]
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


def positive(word: str) -> int:
    """An argument that is at least 1, before anything that is kept is written over."""
    if (number := int(word)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {word}")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=positive, default=6000, help="steps of each run (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=positive, default=8, help="how many seeds, each for every method (default: %(default)s)"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["plain", "aw"], help="default: plain aw")
    parser.add_argument("--setting", choices=SETTINGS, default="unstable", help="default: %(default)s")
    add_output_arguments(parser)
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one per core)"
    )
    parser.add_argument("--draw", action="store_true", help="train nothing, draw the picture of what is there")
    arguments = parser.parse_args()

    settings = {
        name: getattr(arguments, name) for name in ("setting", "steps", "seeds", "first_seed", "methods", "workers")
    }
    folder = "ring" if arguments.setting == "unstable" else f"ring_{arguments.setting}"
    if arguments.draw:
        out = output_folder(arguments, folder)
        draw(read_runs(out, SETTINGS[arguments.setting].std), arguments.methods, out / "ring.png")
        return
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results = Results(output_folder(arguments, folder), settings)
    try:
        for finished in run_all(
            arguments.methods, seeds, SETTINGS[arguments.setting], arguments.steps, arguments.workers
        ):
            results.add(finished)
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is of the runs that had finished")
    if results.runs:
        results.close(arguments.methods, draw)


if __name__ == "__main__":
    main()
