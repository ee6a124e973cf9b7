"""Where rules differ from the peer's: random gradients whose norms differ more and more."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.record import machine_record
from benchmarks.rules.calls import caller, peers, write
from gradweight.rules.claims import CLAIMS

__all__ = ["run_agreement"]


def run_agreement(trials: int, out: Path) -> None:
    record: dict[str, Any] = {"machine": machine_record(), "trials": trials, "m": 3, "rules": {}}
    theirs = peers(3)
    ratios = [1, 3, 10, 30, 100, 1000]
    both = [claims for claims in CLAIMS if claims.name in theirs and claims.non_conflicting]
    for claims in tqdm(both, desc="agreement"):
        call, rows_of_table = caller(claims), []
        for ratio in ratios:
            rng = np.random.default_rng(ratio)
            counts, worst, apart = [0, 0], [1.0, 1.0], []
            for trial in range(trials):
                rows = rng.standard_normal((3, 5))
                rows *= np.geomspace(1, 1 / ratio, 3)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
                gram = rows @ rows.T
                ours, _ = call(gram, np.ones(3), trial, None, {})
                other = theirs[claims.name](torch.tensor(gram)).detach().numpy()
                directions = [rows.T @ ours, rows.T @ other]
                units = [d / max(np.linalg.norm(d), 1e-300) for d in directions]
                for k, unit in enumerate(units):
                    cosine = float((rows @ unit / np.linalg.norm(rows, axis=1)).min())
                    counts[k] += int(cosine < -1e-6)
                    worst[k] = min(worst[k], cosine)
                apart.append(float(np.degrees(np.arccos(np.clip(units[0] @ units[1], -1, 1)))))
            rows_of_table.append(
                {
                    "norm_ratio": ratio,
                    "conflicts": counts,
                    "worst_cosine": worst,
                    "median_angle_between_deg": statistics.median(apart),
                    "largest_angle_between_deg": max(apart),
                }
            )
        record["rules"][claims.name] = rows_of_table
        for row in rows_of_table:
            tqdm.write(f"{claims.name:12} {row}")
    write(out, "agreement", record)
