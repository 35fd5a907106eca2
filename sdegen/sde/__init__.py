"""Forward and reverse stochastic differential equations."""

from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.sde.linear import VE, VP, SubVP

__all__ = ["SDE", "VE", "VP", "LinearSDE", "ReverseSDE", "Score", "SubVP"]
