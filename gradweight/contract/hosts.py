"""Hosts: an error that says what to write, where a training framework hides the wrapper behind a class of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

__all__ = ["explain_to_accelerate"]


def explain_to_accelerate() -> None:
    """Let ``prepared.backward(...)`` say what to write instead, if Accelerate is in use.

    ``accelerator.prepare(opt)`` returns an `AcceleratedOptimizer`, which has neither `backward` nor `join`. These two
    names are given to the class as properties that raise `AttributeError`, as the missing ones do, with a message:
    ``hasattr`` stays False, and nothing else of the class is touched.
    """
    module = sys.modules.get("accelerate.optimizer")
    prepared = getattr(module, "AcceleratedOptimizer", None)
    for name in ("backward", "join"):
        if prepared is not None and name not in vars(prepared):
            setattr(prepared, name, property(_missing(name)))


def _missing(name: str) -> Callable[[object], NoReturn]:
    def explain(self: object) -> NoReturn:
        message = f"{type(self).__name__!r} object has no attribute {name!r}"
        if hasattr(getattr(self, "optimizer", None), "join"):
            message += (
                ": Accelerate calls backward itself. Write accelerator.backward(opt.join({...})) with your own opt, "
                "the MultiObjectiveGradient that you gave to prepare(); step() and zero_grad() the prepared one. Under "
                "a Hugging Face Trainer, return opt.join({...}) from compute_loss, with the opt that you gave it"
            )
        raise AttributeError(message)

    return explain
