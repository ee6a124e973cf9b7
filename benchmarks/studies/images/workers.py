"""Runs of an image study in several processes: what each of them loads once, how it is stopped, where it writes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.studies.images.classifier import METRICS, Judge, trained
from benchmarks.studies.images.datasets import DATASETS, Images

__all__ = ["append_row", "data_and_judge", "is_stopping", "loaded", "now", "run_all"]

J = TypeVar("J")


@functools.cache
def loaded(dataset: str, folder: Path | None) -> Images:
    """Once for a process."""
    return DATASETS[dataset](folder)


@functools.cache
def data_and_judge(
    dataset: str, folder: Path | None, out: Path, device: str, *, epochs: int = 2
) -> tuple[Images, Judge]:
    """Once for all runs of a process; ``epochs`` of the classifier, which is trained if it is not in ``out``."""
    images = loaded(dataset, folder)
    return images, Judge(images, trained(images, out / "classifier.pt", epochs=epochs, device=device), device)


def now(device: str) -> float:
    """Seconds of the processor, or of the clock where a GPU does the work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def append_row(path: Path, run: Iterable[object], step: int, seconds: float, metrics: dict[str, float]) -> None:
    """Append one row to a CSV file; a single short write, so that rows of several processes do not mix."""
    values = [f"{metrics[name]:.6g}" for name in METRICS]
    row = ",".join([*map(str, run), str(step), f"{seconds:.3f}", *values]) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, row.encode())
    os.close(file)


_stopping: Any = None
"""In a worker, the event by which it is told to stop."""


def is_stopping() -> bool:
    """Whether this process is a worker that has been told to stop."""
    return _stopping is not None and bool(_stopping.is_set())


def _start_worker(stop: Any) -> None:
    global _stopping
    _stopping = stop
    torch.set_num_threads(1)  # the runs are what is parallel


def run_all(run: Callable[[J], J | None], jobs: list[J], workers: int) -> Iterator[J | None]:
    """Every job, in as many processes as asked for, in the order in which they end."""
    if workers == 1 or len(jobs) < 2:
        yield from map(run, jobs)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (stop,)) as pool:
        # the workers inherit that they ignore Ctrl-C: it is for this process, and one that took it would go on with
        # the next job that lies in its queue
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        futures = [pool.submit(run, job) for job in jobs]
        signal.signal(signal.SIGINT, handler)
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
