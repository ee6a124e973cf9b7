"""Rules of any shape, and the peer's weightings, as functions that are called alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradweight.rule import CoordinateRule, Signals, StatefulRule
from gradweight.rules.claims import NAMES, Claims

__all__ = ["caller", "peers", "statistics_of", "takes", "write"]


def caller(claims: Claims) -> Callable[..., tuple[Any, Any]]:
    """``(gram or rows, losses, step, state, statistics) -> (weights or direction, state)``, for any shape of rule."""
    rule, declared = claims.rule, Signals.of(claims.rule)

    def call(gram: Any, losses: Any, step: Any, state: Any, statistics: dict[str, Any]) -> tuple[Any, Any]:
        given = {"names": NAMES[: len(losses)], "losses": losses, "step": step}
        given = declared.select(given | statistics if declared.statistics else given)
        given |= {name: 0 * losses[0] + value for name, value in claims.signals.items()}
        if isinstance(rule, StatefulRule):
            return rule.update(gram, rule.init(gram) if state is None else state, **given)
        return (rule.combine if isinstance(rule, CoordinateRule) else rule)(gram, **given), None

    return call


def statistics_of(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What a rule may ask for beside the Gram matrix, (m,) each."""
    return {"max_abs": np.abs(rows).max(1), "mean_abs": np.abs(rows).mean(1)}


def takes(claims: Claims, m: int) -> bool:
    return claims.losses[0] <= m <= claims.losses[1]


def peers(m: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """TorchJD's weightings by the names of our rules; those whose solver is missing are left out."""
    try:
        import torchjd.aggregation as peer
    except ImportError:
        return {}
    makers: dict[str, Callable[[], Any]] = {
        "AlignedMTL": lambda: peer.AlignedMTLWeighting(),
        "CAGrad": lambda: peer.CAGradWeighting(c=0.5),
        "DualProj": lambda: peer.DualProjWeighting(),
        "FairGrad(alpha=0.5)": lambda: peer.FairGradWeighting(alpha=0.5),
        "GradVac": lambda: peer.GradVacWeighting(),
        "IMTLG": lambda: peer.IMTLGWeighting(),
        "Krum": lambda: peer.KrumWeighting(n_byzantine=1),
        "MGDA": lambda: peer.MGDAWeighting(),
        "Mean": lambda: peer.MeanWeighting(),
        "NashMTL": lambda: peer.NashMTL(n_tasks=m).weighting << matrix_root,
        "PCGrad": lambda: peer.PCGradWeighting(),
        "Random": lambda: peer.RandomWeighting(),
        "SDMGrad": lambda: peer.SDMGradWeighting(),
        "Sum": lambda: peer.SumWeighting(),
        "UPGrad": lambda: peer.UPGradWeighting(),
    }
    found = {}
    for name, make in makers.items():
        gram = torch.eye(m, dtype=torch.float32)
        try:
            weighting = make()
            weighting(gram)
        except (ImportError, AttributeError, ValueError, TypeError):
            continue
        found[name] = weighting
    return found


def matrix_root(gram: torch.Tensor) -> torch.Tensor:
    """Some gradients with these inner products, (m, m), for a weighting that wants gradients."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()


def write(out: Path, name: str, record: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(record, indent=1, default=float) + "\n")
