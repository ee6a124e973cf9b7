"""What the wrapper asks of the optimizer that it wraps."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer, SparseAdam

from .several import SeveralOptimizers
from .wrapper import OptimizerWrapper

__all__ = ["check_state_dict", "checked_base"]

_OWN_BACKWARD = ("first_step", "second_step", "set_closure", "fused_backward")
"""By what SAM and its kind, which go backward twice a step, and LOMO, which steps within the pass, are known."""
_COPIES = "param_d2h_map"
"""By what torchao's CPU offload is known, whose groups hold copies, beside parameters that are too small for one."""


def checked_base(base: Optimizer | Sequence[Optimizer]) -> Optimizer:
    """The base optimizer, or several as one.

    Raises:
        TypeError: one that does not step along a dense ``.grad``, asks for losses, is a wrapper; float8 parameters.
        ValueError: an empty sequence; bases that share a parameter.
    """
    bases: Sequence[Any] = base if isinstance(base, list | tuple) else [base]
    if len(bases) == 0:
        raise ValueError("base must be an optimizer, or several in a list; got an empty one")
    for each in bases:
        _check_base(each)
        _check_parameters(each)
    return bases[0] if len(bases) == 1 else SeveralOptimizers(bases)


def _check_base(base: object) -> None:
    """Raise `TypeError` unless ``base`` steps along a dense ``.grad``, does not ask for losses and is no wrapper."""
    if not isinstance(base, Optimizer):
        got = f"the class {base.__name__}" if isinstance(base, type) else f"a {type(base).__name__}"
        raise TypeError(f"base must be a torch.optim.Optimizer, or several in a list; got {got}")
    inside = getattr(base, "optimizer", None)  # as training frameworks keep what they wrap
    if isinstance(base, OptimizerWrapper) or isinstance(inside, OptimizerWrapper):
        raise TypeError(
            f"base must be an optimizer that is not wrapped yet, since one rule decides about a step; got a "
            f"{type(base).__name__}: wrap its base optimizer instead"
        )
    prepared = getattr(sys.modules.get("accelerate.optimizer"), "AcceleratedOptimizer", None)
    if prepared is not None and isinstance(base, prepared):
        raise TypeError(
            "base must be the optimizer itself; got one that accelerator.prepare() has returned, whose step() and "
            "zero_grad() do nothing between micro-batches: wrap first, and prepare the wrapper"
        )
    if isinstance(base, SparseAdam):
        raise TypeError(
            "base must take dense gradients, which combinations are, those of sparse embeddings too; got SparseAdam: "
            "use Adam"
        )
    arguments = inspect.signature(base.step).parameters
    closure = arguments.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"base must be an optimizer whose step() needs no closure; got {type(base).__name__}, which re-evaluates "
            "one scalar loss during the step, while a combination of gradients is the gradient of none: use Adam or "
            f"SGD here, and finish with {type(base).__name__} by itself on a fixed weighted sum of the losses, whose "
            "closure returns sum(w * loss for w, loss in zip(opt.last.weights, losses.values()))"
        )
    own = [f"{name}()" for name in _OWN_BACKWARD if callable(getattr(base, name, None))]
    own += ["step(hessian=)"] if "hessian" in arguments else []
    if own:
        raise TypeError(
            f"base must be an optimizer that steps along .grad alone; got {type(base).__name__}, whose {own[0]} is for "
            "loops that run other backward passes than this one: use Adam or SGD here, or give it the one scalar of "
            "gradweight.LossBalancer"
        )
    if hasattr(base, _COPIES):
        raise TypeError(
            f"base must be an optimizer that steps the parameters themselves; got {type(base).__name__}, which steps "
            "copies that hooks in the backward pass fill: call backward() on the one scalar of gradweight.LossBalancer"
        )


def _check_parameters(base: Optimizer) -> None:
    """Raise `TypeError` for a parameter of a format that holds numbers and has no arithmetic, such as float8."""
    for group in base.param_groups:
        for p in group["params"]:
            if p.requires_grad and p.is_floating_point() and p.dtype.itemsize == 1:
                raise TypeError(
                    f"parameters must be of a type that torch can add and multiply; got one of shape {tuple(p.shape)} "
                    f"in {p.dtype}, which is for storage: train bfloat16 or float32 parameters, and cast them to "
                    "float8 where they are used"
                )


def check_state_dict(state_dict: Any, base: Optimizer) -> None:
    """Raise unless ``state_dict`` has the form of the base's, with as many groups and parameters."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"load_state_dict() needs what state_dict() returned; got {type(state_dict).__name__}")
    missing = [key for key in ("state", "param_groups") if key not in state_dict]
    if missing:
        # an optimizer around others may have a form of its own
        missing = [key for key in base.state_dict() if key not in state_dict]
        if not missing:
            return
        raise ValueError(f"load_state_dict() needs what state_dict() returned; got no {missing} among {[*state_dict]}")
    there = [len(group["params"]) for group in state_dict["param_groups"]]
    ours = [len(group["params"]) for group in base.param_groups]
    if there != ours:
        raise ValueError(
            f"load_state_dict() needs as many parameters in each group as the base has, {ours}; got {there}"
        )
