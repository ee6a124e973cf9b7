"""Eight Gaussians on a ring: a plain GAN beside the same GAN with `AdaptiveWeights`, over several seeds.

    python -m benchmarks.studies.ring.compare [--setting stable]

trains all seeds of a method as one ensemble, prints a table and writes, to build/ring/, the picture of the samples as
they develop (ring.png), the metrics of every run over time (runs.csv), the samples drawn (samples.npz) and the summary
with the machine record (ring.json). Ctrl-C leaves the table and the picture of the seeds that have finished.

The question is that of section 5.3 of Adaptive Weighted Discriminator (CVPR 2021, arXiv:2012.03149), which shows one
run of each: a plain GAN that wanders between modes, and the weighted one that settles on all eight. One seed is an
anecdote, so here are several, paired: both methods start from the same networks and see the same data and noise.

The setting is near that section's, which trains as Unrolled GAN does (arXiv:1611.02163, and its public example): eight
modes on the unit circle, two hidden layers of 128 units, Adam with beta1 = 0.5. To fit into minutes of a CPU, noise of
8 dimensions instead of 256, batches of 128 instead of 512, and a rate of 5e-4 for both networks. Our own choices are
ReLU and LeakyReLU(0.2) units, a standard deviation of 0.02 and the non-saturating loss for the generator. The numbers
are those of the last step, whatever comes.

The setting was chosen on seeds 0 to 7, which gave a larger difference than others do. So the default is eight seeds
from 100 on, as an example, and what is cited is 40 of them (`--seeds 40 --cite`), in benchmarks/results/ring: 16 plain
and 27 weighted GANs cover all eight modes, 13 and 3 none. What a longer run would do is not shown.

No single seed says anything. Seeds differ as much as the methods do, and training is chaotic: a change in the last bit,
from another processor, another release of torch or another order of adding up, makes another run of the same seed
within some thousand steps, which in a third of the runs ended with another number of modes (`again.py`). On one machine
a run depends on its seed alone (`ensemble.py` says how exactly). Judge means over many seeds.

How large the difference is depends on how unstable the plain GAN is. Where it finds most of the ring by itself, the
difference is gone: ``--setting stable --steps 5000 --first-seed 0`` has a standard deviation of 0.01, noise of 2
dimensions, betas of (0.9, 0.99) and a third hidden layer, and is cited from benchmarks/results/ring_stable. There the
plain GAN covers 6.8 modes in the mean over 8 seeds and the weighted one 7.4 (95% interval of the difference -1.0 to
2.3).
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, output_folder, publish, working_folder
from benchmarks.studies.ring.compare_figure import draw
from benchmarks.studies.ring.compare_runs import Results, Run, kept, read_runs
from benchmarks.studies.ring.ensemble import MODES, Adam, Ensemble, Method
from gradweight.gan import Vanilla
from gradweight.rules import AdaptiveWeights

METHODS = {
    "plain": Method(Vanilla()),
    "aw": Method(Vanilla(), AdaptiveWeights()),
    "aw-relative": Method(Vanilla(), AdaptiveWeights(epsilon_mode="relative")),
    "aw-unnormalized": Method(Vanilla(), AdaptiveWeights(normalized=False)),
}

WIDTH, BATCH, LEARNING_RATE, SLOPE = 128, 128, 5e-4, 0.2
SIDE_BY_SIDE = 8
"""Seeds in one ensemble; more are trained after them or, with more cores, in other processes."""


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


# ---- what a run is given by its seed


def networks(seed: int, setting: Setting) -> tuple[nn.Sequential, nn.Sequential]:
    """The generator and the discriminator that both methods start from."""

    def layers(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
        hidden: list[nn.Module] = []
        for i in range(setting.hidden):
            hidden += [nn.Linear(WIDTH if i else inputs, WIDTH), activation]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return layers(setting.noise, 2, nn.ReLU()), layers(2, 1, nn.LeakyReLU(SLOPE))


def batches(seed: int, setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    """Real samples (BATCH, 2) and noise (BATCH, noise) of one step after the other, without an end."""
    random = torch.Generator().manual_seed(seed)
    while True:
        mode = torch.randint(len(MODES), (BATCH,), generator=random)
        real = MODES[mode] + setting.std * torch.randn(BATCH, 2, generator=random)
        yield real, torch.randn(BATCH, setting.noise, generator=random)


# ---- many runs as one, and many of these on all cores


def ensemble(method: str, seeds: Sequence[int], setting: Setting, dtype: torch.dtype = torch.float32) -> Ensemble:
    """The runs of these seeds at their start."""
    members = [networks(seed, setting) for seed in seeds]
    return Ensemble(METHODS[method], members, Adam(LEARNING_RATE, setting.betas), SLOPE, dtype=dtype)


def train(runs: Ensemble, seeds: Sequence[int], setting: Setting, steps: int) -> Iterator[int]:
    """Take so many steps; yields their number after each, for whoever wants to look."""
    streams = [batches(seed, setting) for seed in seeds]
    for _ in range(steps):
        real, noise = zip(*(next(stream) for stream in streams), strict=True)
        dtype = runs.g["0.bias"].dtype
        runs.step(torch.stack(real).to(dtype), torch.stack(noise).to(dtype))
        yield runs.taken


def run(method: str, seeds: Sequence[int], setting: Setting, steps: int) -> list[Run]:
    """Train the GANs of some seeds in this process, reporting progress as it goes; nothing if told to stop."""
    start = time.process_time()
    runs, results = ensemble(method, seeds, setting), [Run(method, seed, setting.std) for seed in seeds]
    fixed = [torch.Generator().manual_seed(seed + 1_000_000) for seed in seeds]
    noise = torch.stack([torch.randn(EVALUATED, setting.noise, generator=random) for random in fixed])
    shown = {math.ceil(steps * (i + 1) / COLUMNS) for i in range(COLUMNS)}
    looks = shown | {math.ceil(steps * (i + 1) / (5 * COLUMNS)) for i in range(5 * COLUMNS)}

    reported = 0
    for step in train(runs, seeds, setting, steps):
        if step in looks:
            for result, samples in zip(results, runs.samples(noise), strict=True):
                result.look(step, samples, keep=step in shown)
        if step % 20 == 0 or step == steps:
            with progress.get_lock():
                progress.value += (step - reported) * len(seeds)
            reported = step
            if stopping.is_set():
                return []
    for result in results:
        result.seconds = (time.process_time() - start) / len(seeds)
    return results


def start_worker(counter: Any, stop: Any) -> None:
    global progress, stopping
    progress, stopping = counter, stop
    torch.set_num_threads(1)  # the ensembles are what is parallel


def run_all(methods: list[str], seeds: range, setting: Setting, steps: int, workers: int) -> Iterator[Run]:
    """Every method at every seed; yields the runs as their ensemble finishes, with a progress bar meanwhile."""
    context = multiprocessing.get_context("spawn")
    counter, stop = context.Value("q", 0), context.Event()
    blocks = [seeds[i : i + SIDE_BY_SIDE] for i in range(0, len(seeds), SIDE_BY_SIDE)]
    jobs = [(method, block, setting, steps) for block in blocks for method in methods]
    with (
        ProcessPoolExecutor(min(workers, len(jobs)), context, start_worker, (counter, stop)) as pool,
        tqdm(
            total=len(seeds) * len(methods) * steps, unit="step", unit_scale=True, desc="training", mininterval=0.5
        ) as bar,
    ):
        # the workers start here, and inherit that they ignore Ctrl-C: it is for this process, which tells them to stop
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        pending: set[Future[list[Run]]] = {pool.submit(run, *job) for job in jobs}
        signal.signal(signal.SIGINT, handler)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
                for future in done:
                    for finished in future.result():
                        bar.write(
                            f"{finished.method:>16} seed {finished.seed}: {finished.modes[-1]} of 8 modes, "
                            f"{finished.quality[-1]:.0%} high quality"
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
    parser.add_argument("--first-seed", type=int, default=100, help="the first of them (default: %(default)s)")
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
    out = working_folder(arguments, folder)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results, complete = Results(out, settings), False
    try:
        for finished in run_all(
            arguments.methods, seeds, SETTINGS[arguments.setting], arguments.steps, arguments.workers
        ):
            results.add(finished)
        complete = True
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is of the runs that had finished")
    if results.runs:
        results.close(arguments.methods, draw)
    if complete:
        publish(arguments, out, folder)
    if not arguments.cite:
        print(kept(folder, arguments.methods))


if __name__ == "__main__":
    main()
