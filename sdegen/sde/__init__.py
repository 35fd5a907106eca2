"""Forward processes, their reversal, and the distributions that are known exactly.

Nothing here is trained or sampled on a grid.
"""

from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.sde.chains import DDPM, SMLD
from sdegen.sde.linear import VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.sde.nonlinear import DoubleWell
from sdegen.sde.scores import Counted, GuidedScore, Parts

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
    "SDE",
    "SMLD",
    "Score",
    "SubVP",
    "VE",
    "VP",
]
