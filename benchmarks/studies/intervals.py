"""What can be said of a few seeds: 95% intervals of means and of rates, and whether paired seeds differ."""

from __future__ import annotations

import math
import statistics

import numpy as np

# 97.5% quantiles of Student's t for 1, 2, ... 18 degrees of freedom
_T = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10]


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t; from 19 degrees of freedom on by its expansion, right to 0.0004."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_and_margin(values: list[float]) -> tuple[float, float]:
    """The mean, and the half-width of its interval by Student's t (NaN for one value)."""
    if len(values) < 2:
        return statistics.fmean(values), math.nan
    margin = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return round(statistics.fmean(values), 4), round(margin, 4)


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a rate of which k of n were seen, by Wilson's score: within [0, 1], and right for k = 0 too."""
    centre = (k + z * z / 2) / (n + z * z)
    margin = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(centre - margin, 0.0), min(centre + margin, 1.0)


def paired_difference(only: int, other: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """The difference of two rates over n pairs, and its interval.

    In `only` of the pairs only the first happened, in `other` only the second. The interval is Wald's with half a pair
    added to each of the four cells, which holds for few pairs and for none of a kind (Agresti and Min, Statistics in
    Medicine 24, 2005, section 2).
    """
    b, c, pairs = only + 0.5, other + 0.5, n + 2
    centre = (b - c) / pairs
    margin = z / pairs * math.sqrt(b + c - (b - c) ** 2 / pairs)
    return (only - other) / n, max(centre - margin, -1.0), min(centre + margin, 1.0)


def bootstrap(values: list[float], resamples: int = 10_000) -> tuple[float, float, float]:
    """The mean and its interval by percentiles of resampled means; NaN for no values."""
    if not values:
        return math.nan, math.nan, math.nan
    x = np.asarray(values)
    means = x[np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(x.mean()), float(low), float(high)


def sign_test(better: int, worse: int) -> float:
    """How likely a split at least as uneven is, in either direction, if either were equally likely in each pair."""
    n = better + worse
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(better, worse) + 1)) / 2**n)


def holm(p: list[float]) -> list[float]:
    """p-values corrected for their number: reject those below a level, and no true one is, but for that probability.

    Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6, 1979.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected
