"""Named losses, one gradient each, combined by a rule, handed to the optimizer that you already have.

Nothing is imported before it is asked for: the rules and `gradweight.optax` work where torch is not installed, and all
of the rest where JAX is not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import func, gan, rules
    from . import optax as optax
    from . import plot as plot
    from . import testing as testing
    from .balancer import LossBalancer
    from .combination import Combination
    from .optimizer import MultiObjectiveGradient
    from .rule import CoordinateRule, Rule, StatefulRule

__all__ = [
    "Combination",
    "CoordinateRule",
    "LossBalancer",
    "MultiObjectiveGradient",
    "Rule",
    "StatefulRule",
    "func",
    "gan",
    "rules",
]
__version__ = "0.2.0.dev0"

_MODULES = ("func", "gan", "optax", "plot", "rules", "testing")  # `*` leaves out those that need more than torch
_MODULE_OF = {
    "Combination": "combination",
    "LossBalancer": "balancer",
    "MultiObjectiveGradient": "optimizer",
    "CoordinateRule": "rule",
    "Rule": "rule",
    "StatefulRule": "rule",
}
_EXTRA_OF = {"torch": "torch", "jax": "optax", "optax": "optax", "matplotlib": "plot"}


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_MODULE_OF.get(name, name)}", __name__)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA_OF:
            raise
        extra = _EXTRA_OF[package]
        message = f"gradweight.{name} needs {package}, which is not installed: pip install 'gradweight[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    # the next time it is found without asking here
    globals()[name] = module if name in _MODULES else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "optax", "plot", "testing", "__version__"]
