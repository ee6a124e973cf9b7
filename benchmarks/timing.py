"""Times of several ways to do one thing, taken in turn in one process, and their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

__all__ = ["interleaved", "quartiles", "quartiles_of_ratios"]


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = float("inf"),
    warmups: int = 2,
    device: torch.device | str = "cpu",
    title: str = "",
) -> dict[str, list[float]]:
    """Seconds that each way took in each round: a machine that slows down slows all of them down.

    Every round starts with another way, so that nobody always runs after the same neighbour. On a GPU each call is
    timed from an idle device to an idle device.

    Args:
        ways: name -> what to run.
        rounds: how many rounds at most.
        seconds: no round is begun after these have passed; there are always three.
        warmups: rounds before the first that counts.
        device: where they run.
        title: for the progress bar.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    began = time.perf_counter()
    for i in tqdm(range(-warmups, rounds), desc=title, leave=False):
        if i >= 3 and time.perf_counter() - began > seconds:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            wait()
            start = time.perf_counter()
            ways[name]()
            wait()
            if i >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def quartiles_of_ratios(times: Mapping[str, list[float]], base: str) -> dict[str, list[float]]:
    """First quartile, median and third quartile of each way's time over that of ``base`` in the same round."""
    return {name: quartiles([t / b for t, b in zip(some, times[base], strict=True)]) for name, some in times.items()}


def quartiles(values: Sequence[float]) -> list[float]:
    """First quartile, median and third quartile, rounded to four digits; of two values at least."""
    return [round(q, 4) for q in statistics.quantiles(values, n=4, method="inclusive")]
