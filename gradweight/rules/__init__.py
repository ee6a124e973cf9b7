"""The rules, one small file each: `gradweight.rules.NAME()` is a callable ``(gram, *, names, ...) -> weights``."""

from .adaptive import AdaptiveWeights
from .advas import AdvAs
from .bisector import AngleBisector
from .projection import OrthogonalProjection
from .simple import Constant, Mean, Sum

__all__ = ["AdaptiveWeights", "AdvAs", "AngleBisector", "Constant", "Mean", "OrthogonalProjection", "Sum"]
