"""Named losses, one gradient each, combined by a rule, handed to the optimizer that you already have."""

from . import func, rules
from .combination import Combination
from .optimizer import MultiObjectiveGradient
from .rule import CoordinateRule, Rule, StatefulRule

__all__ = ["Combination", "CoordinateRule", "MultiObjectiveGradient", "Rule", "StatefulRule", "func", "rules"]
__version__ = "0.1.0"
