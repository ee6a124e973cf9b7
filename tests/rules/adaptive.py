"""The paper's Algorithms 1 and 2, written out as they are printed, and Gram matrices and scores for each case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradweight.rules import AdaptiveWeights


def algorithm_1(rr, rf, ff, s_r, s_f, alpha1=0.5, alpha2=0.75, delta=0.05, epsilon=0.05):
    """Lines 5 to 19 of Algorithm 1, on plain floats; which case it was, w_r, w_f."""
    norm_r, norm_f = math.sqrt(rr), math.sqrt(ff)
    if s_r < s_f - delta or s_r < alpha1:
        if rf < 0:
            return 1, 1 / norm_r + epsilon, -rf / (norm_f**2 * norm_r) + epsilon
        else:
            return 2, 1 / norm_r + epsilon, epsilon
    elif s_r > s_f - delta and s_r > alpha2:
        if rf < 0:
            return 3, -rf / (norm_r**2 * norm_f) + epsilon, 1 / norm_f + epsilon
        else:
            return 4, epsilon, 1 / norm_f + epsilon
    else:
        return 5, 1 / norm_r + epsilon, 1 / norm_f + epsilon


def algorithm_2(rr, rf, ff, s_r, s_f, alpha1=0.5, alpha2=0.75, delta=0.05, epsilon=0.05):
    """Lines 5 to 19 of Algorithm 2."""
    if s_r < s_f - delta or s_r < alpha1:
        if rf < 0:
            return 1, 1 + epsilon, -rf / ff + epsilon
        else:
            return 2, 1 + epsilon, epsilon
    elif s_r > s_f - delta and s_r > alpha2:
        if rf < 0:
            return 3, -rf / rr + epsilon, 1 + epsilon
        else:
            return 4, epsilon, 1 + epsilon
    else:
        return 5, 1 + epsilon, 1 + epsilon


ALGORITHMS = pytest.mark.parametrize(
    ("normalized", "algorithm"), [(True, algorithm_1), (False, algorithm_2)], ids=["algorithm 1", "algorithm 2"]
)
OBTUSE = np.array([[4.0, -1.0], [-1.0, 25.0]])
RIGHT = np.array([[4.0, 0.0], [0.0, 25.0]])
ACUTE = np.array([[4.0, 1.0], [1.0, 25.0]])
SCORES = {1: (0.4, 0.4), 3: (0.9, 0.2), 5: (0.6, 0.4)}


def ask(rule: AdaptiveWeights, gram: np.ndarray, s_r: float, s_f: float) -> np.ndarray:
    return rule(gram, real_score=np.asarray(s_r), fake_score=np.asarray(s_f))
