"""DCGAN and SN-GAN on images of 32 x 32: plain, with adaptive weights, with AdvAs, and with both.

    python -m benchmarks.studies.images.compare --setting small          # two cores, about ten minutes
    python -m benchmarks.studies.images.compare --setting full --device cuda   # a GPU, at most 25 minutes

takes the papers' networks at a width that fits the machine. What Adaptive Weighted Discriminator has for SN-GAN besides
(its appendix B.2) is asked for with `--networks sngan --betas 0 0.999 --batch 64 --generator-batch 128 --decay`, the
moving average of AdvAs's AutoGAN with `--average 0.999`, other data with `--dataset cifar100 --data FOLDER`.

Writes, to build/images/, the metrics of every run as it goes (runs.csv), the picture of classifier-FID
over generator steps and over training time (images.png), samples of the first seed (samples.png), and the summary with
the machine record (images.json). The same command again goes on where the last one stopped; finished runs are kept.
With `--cite` it goes on from benchmarks/results/images/, which is replaced when all runs have finished.

Claims. Adaptive Weighted Discriminator (CVPR 2021, arXiv:2012.03149, section 4): aw-SN-GAN has a lower FID than SN-GAN
(12.3 against 21.7 on CIFAR-10) and gets there in fewer epochs. AdvAs (arXiv:2010.01274, section 5): with as many
discriminator steps, the penalty lowers FID per generator step, and over time too, though a step costs more. Neither
paper used Fashion-MNIST, and the networks here are narrow and trained for a short time unless the setting is `full`:
this asks whether the order of the methods is the same, and cannot reproduce a number.

**classifier-FID is not FID**: the features are those of a small classifier of the same data (`classifier.py`, its
weights lie beside the results). All methods start from the same networks and see the same data and noise at one seed.

Numbers of the training time are of the processor on a CPU, so that what else the machine does counts little, and of
the clock on a GPU, where several runs share it with `--workers` and slow each other down alike. Measuring is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, publish, working_folder
from benchmarks.record import machine_record
from benchmarks.studies.images.classifier import METRICS
from benchmarks.studies.images.datasets import DATASETS
from benchmarks.studies.images.models import NOISE, SETTINGS, networks
from benchmarks.studies.images.report import LABELS, Row, draw, draw_samples, finished, read, report, summarise
from benchmarks.studies.images.sizes import Size, add_size_arguments, size_of
from benchmarks.studies.images.training import DEFAULT, METHODS, average_of, sample, to_bytes, train
from benchmarks.studies.images.workers import append_row, data_and_judge, is_stopping, loaded, now, run_all

COLUMNS = ("network", "method", "seed", "step", "seconds", *METRICS)


# ---- one run


@dataclass(frozen=True)
class Job:
    """One run: everything that it depends on."""

    network: str
    method: str
    seed: int
    size: Size
    dataset: str
    data: Path | None
    out: Path
    device: str
    deadline: float
    drawn: bool = False  # whether some of its samples are kept for the picture


def run(job: Job) -> Job | None:
    """Train one GAN in this process, writing a row to runs.csv at each look; None if it was stopped before the end."""
    device = job.device
    images, judge = data_and_judge(job.dataset, job.data, job.out, device)
    width, steps = job.size.widths[job.network], job.size.steps[job.network]
    torch.manual_seed(job.seed)
    nets = networks(job.network, width, images.channels, images.pixels)
    nets = nets[0].to(device), nets[1].to(device)
    sampled = nets[0] if job.size.average is None else average_of(nets[0], job.size.average)
    data = images.samples.to(device)
    fixed = torch.randn(job.size.judged, NOISE, generator=torch.Generator().manual_seed(job.seed + 10**6)).to(device)
    looks = {math.ceil(steps * (i + 1) / job.size.looks) for i in range(job.size.looks)}

    spent, start = 0.0, now(device)
    setting = job.size.setting(job.network)
    for step in train(nets, setting, METHODS[job.method], data, steps, job.size.batch, job.seed):
        if sampled is not nets[0]:
            sampled.update_parameters(nets[0])
        if step in looks:
            spent += now(device) - start
            fake = sample(sampled, fixed)
            append_row(job.out / "runs.csv", (job.network, job.method, job.seed), step, spent, judge(fake))
            if step == steps and job.drawn:
                np.save(job.out / f"samples-{job.network}-{job.method}.npy", to_bytes(fake[:12]))
            start = now(device)
        if time.time() > job.deadline or is_stopping():
            return None
    return job


# ---- the command


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_size_arguments(parser)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: both")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT, help="default: " + " ".join(DEFAULT))
    parser.add_argument("--seeds", type=int, help="how many (default: the setting's)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--dataset", choices=DATASETS, default="fashion-mnist", help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="folder of the data (default: Debian's, for Fashion-MNIST)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--workers", type=int, help="processes (default: one a core; 3 on a GPU)")
    parser.add_argument("--minutes", type=float, help="stop after so many (default: the setting's)")
    add_output_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="throw away what the folder has")
    arguments = parser.parse_args(words)

    size = size_of(arguments)
    seeds = size.seeds if arguments.seeds is None else arguments.seeds
    minutes = size.minutes if arguments.minutes is None else arguments.minutes
    workers = arguments.workers or (os.cpu_count() or 1 if arguments.device == "cpu" else 3)
    deadline = time.time() + 60 * minutes
    settings = {"dataset": arguments.dataset, **json.loads(json.dumps(size.record()))}
    try:
        loaded(arguments.dataset, arguments.data)  # before the folder is one of runs on them
    except FileNotFoundError as missing:
        parser.exit(2, f"images.py: {missing}\n")
    out = working_folder(arguments, "images")
    rows = resume(out, settings, size, arguments.fresh)
    images, judge = data_and_judge(arguments.dataset, arguments.data, out, arguments.device)
    floor, accuracy = judge.of_real(size.judged), judge.accuracy(images)

    done = {(r["network"], r["method"], r["seed"]) for r in rows}
    jobs = [
        Job(
            n, m, s, size, arguments.dataset, arguments.data, out, arguments.device, deadline, s == arguments.first_seed
        )
        for s in range(arguments.first_seed, arguments.first_seed + seeds)
        for n in arguments.networks
        for m in arguments.methods
        if (n, m, s) not in done
    ]
    begin = time.perf_counter()
    try:
        for job in tqdm(run_all(run, jobs, workers), total=len(jobs), unit="run", desc="training"):
            if job is not None:
                tqdm.write(f"{LABELS[job.network]:>8} {job.method:<6} seed {job.seed}")
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is of the runs that had finished; the same command goes on")

    rows = finished(read(out / "runs.csv"), size.steps)
    if not rows:
        parser.exit(1, "no run has finished\n")
    summary = summarise(rows, size.steps)
    print(report(summary, floor))
    path = out / "images.json"
    calls = json.loads(path.read_text())["calls that trained"] if path.exists() else []
    if jobs:
        wall = round(time.perf_counter() - begin, 1)
        calls.append({"machine": machine_record(), "workers": workers, "runs": len(jobs), "wall seconds": wall})
    record = {
        "machine": machine_record(),
        "calls that trained": calls,
        "settings": settings,
        "the classifier's accuracy on test images": round(accuracy, 4),
        "real images": floor,
        "summary (mean, margin of 95%)": summary,
    }
    # a single seed has no interval, and JSON no NaN
    path.write_text(json.dumps(record, indent=1).replace("NaN", "null") + "\n")
    draw(rows, floor["classifier_fid"], size.widths, out / "images.png")
    draw_samples(out, images, out / "samples.png")
    if {(r["network"], r["method"], r["seed"]) for r in rows} >= {(j.network, j.method, j.seed) for j in jobs}:
        publish(arguments, out, "images")


def resume(out: Path, settings: dict[str, Any], size: Size, fresh: bool) -> list[Row]:
    """Rows of the runs that have finished already, with runs.csv holding just these and the settings kept beside it."""
    out.mkdir(parents=True, exist_ok=True)
    kept, file = out / "runs.csv", out / "settings.json"
    if fresh:
        for path in (kept, file, out / "images.json", out / "classifier.pt", *out.glob("samples-*.npy")):
            path.unlink(missing_ok=True)
    if file.exists() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{out} holds runs of another setting: take --out FOLDER, or --fresh to throw them away")
    rows = finished(read(kept), size.steps)
    done = {f"{r['network']},{r['method']},{r['seed']}," for r in rows}
    lines = [line for line in kept.read_text().splitlines() if line.startswith(tuple(done))] if done else []
    kept.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    file.write_text(json.dumps(settings) + "\n")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
