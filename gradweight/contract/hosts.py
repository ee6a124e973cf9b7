"""Hosts: an error that says what to write, where a training framework hides the wrapper behind a class of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["explain_to_accelerate"]


def explain_to_accelerate() -> None:
    """Let ``prepared.backward(...)`` say what to write instead, if Accelerate is in use.

    ``accelerator.prepare(opt)`` returns an `AcceleratedOptimizer`, which has no `backward`, `join` or `split_at`. These
    names are given to the class as properties that raise `AttributeError`, as the missing ones do, with a message:
    ``hasattr`` stays False, and nothing else of the class is touched.
    """
    module = sys.modules.get("accelerate.optimizer")
    prepared = getattr(module, "AcceleratedOptimizer", None)
    for name in ("backward", "join", "split_at"):
        if prepared is not None and name not in vars(prepared):
            setattr(prepared, name, property(_missing(name)))


def _missing(name: str) -> Callable[[object], NoReturn]:
    def explain(self: object) -> NoReturn:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if hasattr(getattr(self, "optimizer", None), "join"):
            where = _UNDER_TRAINER if _in_a_trainer() else _IN_A_LOOP
            message += _SPLIT if name == "split_at" else where
        raise AttributeError(message)

    return explain


def _in_a_trainer() -> bool:
    """Whether a Hugging Face Trainer is what runs the caller."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if str(frame.f_globals.get("__name__")).startswith("transformers.trainer"):
            return True
    return False


_IN_A_LOOP = (
    ": Accelerate calls backward itself. Write accelerator.backward(opt.join({...})) with your own opt, the "
    "MultiObjectiveGradient that you gave to prepare(); step() and zero_grad() the prepared one"
)
_SPLIT = ": call it on your own opt, the MultiObjectiveGradient that was prepared, and leave step() to the prepared one"
_UNDER_TRAINER = (
    ": the Trainer calls backward itself, and has wrapped the optimizer once more. Return opt.join({...}) from "
    "compute_loss, with the MultiObjectiveGradient that you gave it in optimizers="
)
