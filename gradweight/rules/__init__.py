"""The rules, one small file each: `gradweight.rules.NAME()` is a callable ``(gram, *, names, ...) -> weights``."""

from .adaptive import AdaptiveWeights
from .advas import AdvAs
from .bisector import AngleBisector
from .crmogm import CRMOGM
from .dwa import DWA
from .famo import FAMO
from .geometric_mean import GeometricMean
from .graddrop import GradDrop
from .gradnorm import GradNorm
from .gradvac import GradVac
from .imtl_l import IMTLL
from .krum import Krum
from .norm_balance import NormBalance
from .pcgrad import PCGrad
from .pinn_annealing import PINNAnnealing, PINNNormAnnealing
from .projection import OrthogonalProjection
from .random import Random
from .simple import Constant, Mean, Sum
from .tchebycheff import SmoothTchebycheff
from .torchjd import from_torchjd
from .trimmed_mean import TrimmedMean
from .uncertainty import Uncertainty
from .vqgan import VQGANWeight

__all__ = [
    "CRMOGM",
    "DWA",
    "FAMO",
    "IMTLL",
    "AdaptiveWeights",
    "AdvAs",
    "AngleBisector",
    "Constant",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "Krum",
    "Mean",
    "NormBalance",
    "OrthogonalProjection",
    "PCGrad",
    "PINNAnnealing",
    "PINNNormAnnealing",
    "Random",
    "SmoothTchebycheff",
    "Sum",
    "TrimmedMean",
    "Uncertainty",
    "VQGANWeight",
    "from_torchjd",
]
