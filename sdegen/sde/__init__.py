"""Forward processes, their reverse processes, and distributions of data that are known exactly.

Networks, training and samplers are in packages of their own.
"""

from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.sde.chains import DDPM, SMLD
from sdegen.sde.linear import VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.sde.nonlinear import DoubleWell
from sdegen.sde.scores import Counted, GuidedScore, Parts, RowScore

__all__ = [
    "Counted",
    "DDPM",
    "DoubleWell",
    "GaussianMixture",
    "GuidedScore",
    "LinearSDE",
    "Marginals",
    "Parts",
    "ReverseSDE",
    "RowScore",
    "SDE",
    "SMLD",
    "Score",
    "SubVP",
    "VE",
    "VP",
]
