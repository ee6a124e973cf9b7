"""Times of several ways to do one thing, taken in turn in one process, and their ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

__all__ = ["beside_plain", "interleaved", "quartiles", "quartiles_of_ratios"]

TURN = 0.03
"""Seconds."""

MOST_CALLS = 200


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float = float("inf"),
    warmups: int = 2,
    device: torch.device | str = "cpu",
    turn: float = TURN,
    title: str = "",
    wait: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds that a call of each way took in each round: a machine that slows down slows all of them down.

    The ways take turns, and every round starts with another one. A turn lasts at least ``turn``, call after call, as
    the steps of a training follow each other: what the others have left in the caches costs the first call only, which
    is not counted where there are several. On a GPU a turn is timed from an idle device to an idle device.

    Args:
        ways: name -> what to run.
        rounds: how many rounds at most.
        seconds: no round is begun after these have passed; there are always three.
        warmups: rounds before the first that counts.
        device: where they run.
        turn: in seconds; 0 for one call, where processes have to agree on how many.
        title: for the progress bar.
        wait: until nothing runs any more; None: for torch on ``device``.
    """
    if wait is None:
        wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None

    def seconds_of(call: Callable[[], object], calls: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        return (time.perf_counter() - start) / calls

    times: dict[str, list[float]] = {name: [] for name in ways}
    calls = dict.fromkeys(ways, 1)
    names = list(ways)
    began = time.perf_counter()
    for i in tqdm(range(-warmups, rounds), desc=title, leave=False):
        if i >= 3 and time.perf_counter() - began > seconds:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            if calls[name] > 1:
                ways[name]()
            found = seconds_of(ways[name], calls[name])
            if i < 0:
                calls[name] = min(MOST_CALLS, max(1, math.ceil(turn / found)))
            else:
                times[name].append(found)
    return times


def quartiles_of_ratios(times: Mapping[str, list[float]], base: str) -> dict[str, list[float]]:
    """First quartile, median and third quartile of each way's time over that of ``base`` in the same round."""
    return {name: quartiles([t / b for t, b in zip(some, times[base], strict=True)]) for name, some in times.items()}


def beside_plain(times: Mapping[str, list[float]], plain: str) -> dict[str, Any]:
    """What is kept of times: how many rounds, the plain step's median, and each way's ratios to it."""
    return {
        "rounds": len(times[plain]),
        "plain_ms": round(statistics.median(times[plain]) * 1e3, 3),
        "ratio_quartiles": quartiles_of_ratios(times, plain),
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """First quartile, median and third quartile, rounded to four digits; of two values at least."""
    return [round(q, 4) for q in statistics.quantiles(values, n=4, method="inclusive")]
