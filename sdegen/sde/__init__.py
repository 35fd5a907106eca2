"""Forward processes, their reverse processes, and distributions of data that are known exactly.

Networks, training and samplers are in packages of their own.
"""

from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.sde.chains import DDPM, SMLD
from sdegen.sde.linear import VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.sde.nonlinear import DoubleWell
from sdegen.sde.paths import EDM, Cosine, GaussianPath, Linear
from sdegen.sde.scores import Counted, GuidedScore, Parts, RowScore
from sdegen.sde.table import Table

__all__ = [
    "Cosine",
    "Counted",
    "DDPM",
    "DoubleWell",
    "EDM",
    "GaussianMixture",
    "GaussianPath",
    "GuidedScore",
    "Linear",
    "LinearSDE",
    "Marginals",
    "Parts",
    "ReverseSDE",
    "RowScore",
    "SDE",
    "SMLD",
    "Score",
    "SubVP",
    "Table",
    "VE",
    "VP",
]
