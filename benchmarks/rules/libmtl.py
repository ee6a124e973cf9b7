"""LibMTL's weighting methods as functions of gradients, where it is installed or a checkout of it is at hand.

Its package as a whole imports datasets' and architectures' dependencies; its weighting methods need torch, and each its
own solver. ``LIBMTL`` names a folder with a checkout (MIT licence, https://github.com/median-research-group/LibMTL).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

__all__ = ["METHODS", "libmtl"]

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "CAGrad": ("CAGrad", {"calpha": 0.5, "rescale": 0}),
    "FairGrad(alpha=0.5)": ("FairGrad", {"FairGrad_alpha": 0.5}),
    "GradVac": ("GradVac", {"GradVac_beta": 0.5, "GradVac_group_type": 0}),
    "IMTLG": ("IMTL", {}),
    "MGDA": ("MGDA", {"mgda_gn": "none"}),
    "NashMTL": ("Nash_MTL", {"update_weights_every": 1, "optim_niter": 20, "max_norm": 0}),
    "PCGrad": ("PCGrad", {}),
    "UPGrad": ("UPGrad", {"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4}),
}
"""By the names of our rules: the class and its hyperparameters. `Aligned_MTL` calls an eigensolver that torch no longer
has, `SDMGrad` takes three batches, and those by losses alone are no more than a sum."""


def libmtl(rows: Tensor, losses: Tensor) -> dict[str, Callable[[], object]]:
    """A call of each method with these gradients, from their products to the new gradient; none if it is not there.

    A method that fails, for want of its solver or with so many losses, is left out.
    """
    weighting = _weighting()
    found: dict[str, Callable[[], object]] = {}
    for name, (kind, options) in METHODS.items():
        if hasattr(weighting, kind):
            try:
                method = _method(getattr(weighting, kind), rows, losses, options)
                method()
            except Exception:
                continue
            found[name] = method
    return found


def _weighting() -> ModuleType | None:
    if "LIBMTL" in os.environ:
        folder = Path(os.environ["LIBMTL"]) / "LibMTL"
        if not (folder / "weighting").is_dir():
            raise FileNotFoundError(f"LIBMTL must name a folder with LibMTL/weighting in it; got {folder.parent}")
    else:
        spec = find_spec("LibMTL")
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations)))
    if "LibMTL" not in sys.modules:
        package = ModuleType("LibMTL")
        package.__path__ = [str(folder)]
        sys.modules["LibMTL"] = package
    try:
        return importlib.import_module("LibMTL.weighting")
    except ImportError:
        return None


def _method(kind: type, rows: Tensor, losses: Tensor, options: dict[str, Any]) -> Callable[[], object]:
    class Given(kind):  # type: ignore[misc]
        """The method, with gradients that are there already."""

        def _compute_grad_dim(self) -> None:
            return

        def _compute_grad(self, losses: object, mode: str, rep_grad: bool = False) -> Tensor:
            return rows

        def _reset_grad(self, new_grads: Tensor) -> None:
            return

        def get_share_params(self) -> list[Tensor]:
            return []

    method = Given()
    method.task_num, method.device, method.rep_grad = len(rows), rows.device, False
    method.init_param()
    values = losses.clone().requires_grad_()
    return lambda: method.backward(values, **options)
