"""Forward and reverse stochastic differential equations."""

from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.sde.chains import DDPM, SMLD
from sdegen.sde.linear import VE, VP, SubVP
from sdegen.sde.nonlinear import DoubleWell

__all__ = ["DDPM", "SDE", "SMLD", "VE", "VP", "DoubleWell", "LinearSDE", "ReverseSDE", "Score", "SubVP"]
