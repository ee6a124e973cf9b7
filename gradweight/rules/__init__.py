"""The rules, one small file each: `gradweight.rules.NAME()` is a callable ``(gram, *, names, ...) -> weights``."""

from .adaptive import AdaptiveWeights
from .advas import AdvAs
from .alignedmtl import AlignedMTL
from .bisector import AngleBisector
from .cagrad import CAGrad
from .config import ConFIG
from .cosmos import COSMOS
from .crmogm import CRMOGM
from .dbmtl import DBMTL
from .dualproj import DualProj
from .dwa import DWA
from .epo import EPO
from .fade import Fade
from .fairgrad import FairGrad
from .famo import FAMO
from .geometric_mean import GeometricMean
from .graddrop import GradDrop
from .gradnorm import GradNorm
from .gradvac import GradVac
from .imtl_g import IMTLG
from .imtl_l import IMTLL
from .krum import Krum
from .mconfig import MConFIG
from .metabalance import MetaBalance
from .mgda import MGDA
from .moco import MoCo
from .modo import MoDo
from .nash import NashMTL
from .norm_balance import NormBalance
from .normalized import Normalized
from .ntk import NTKWeight
from .pbi import PBI
from .pcd import PCD
from .pcgrad import PCGrad
from .pinn_annealing import PINNAnnealing, PINNNormAnnealing
from .projection import OrthogonalProjection
from .random import Random
from .relobralo import ReLoBRaLo
from .resnorm import ResNorm
from .sdmgrad import SDMGrad
from .simple import Constant, Mean, Sum
from .softadapt import SoftAdapt
from .tchebycheff import SmoothTchebycheff
from .torchjd import from_torchjd
from .trimmed_mean import TrimmedMean
from .uncertainty import Uncertainty
from .upgrad import UPGrad
from .vqgan import VQGANWeight

__all__ = [
    "COSMOS",
    "CRMOGM",
    "DBMTL",
    "DWA",
    "EPO",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "PBI",
    "PCD",
    "AdaptiveWeights",
    "AdvAs",
    "AlignedMTL",
    "AngleBisector",
    "CAGrad",
    "ConFIG",
    "Constant",
    "DualProj",
    "Fade",
    "FairGrad",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "Krum",
    "MConFIG",
    "Mean",
    "MetaBalance",
    "MoCo",
    "MoDo",
    "NTKWeight",
    "NashMTL",
    "NormBalance",
    "Normalized",
    "OrthogonalProjection",
    "PCGrad",
    "PINNAnnealing",
    "PINNNormAnnealing",
    "Random",
    "ReLoBRaLo",
    "ResNorm",
    "SDMGrad",
    "SmoothTchebycheff",
    "SoftAdapt",
    "Sum",
    "TrimmedMean",
    "UPGrad",
    "Uncertainty",
    "VQGANWeight",
    "from_torchjd",
]
