"""Samplers: from the prior at T to data at eps, along the reverse process.

The room ``guidance`` provides guided scores.
"""

from sdegen.samplers.adaptive import AdaptiveSDE
from sdegen.samplers.base import Sampler, Samples
from sdegen.samplers.correctors import HMC, AnnealedLangevin, Langevin, MetropolisHMC
from sdegen.samplers.exponential import Adams, DPMSolver, StochasticAdams, StochasticDPMSolver
from sdegen.samplers.flow import RK45, Dopri5, ProbabilityFlow
from sdegen.samplers.heun import Heun
from sdegen.samplers.parts import Corrector, Moved, Predictor, Step
from sdegen.samplers.predictors import DDIM, RK4, Ancestral, EulerMaruyama, ReverseDiffusion, StochasticHeun
from sdegen.samplers.steps import StepSampler
from sdegen.samplers.twisted import Twisted

__all__ = [
    "DDIM",
    "HMC",
    "RK4",
    "RK45",
    "Adams",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "Corrector",
    "DPMSolver",
    "Dopri5",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "MetropolisHMC",
    "Moved",
    "Predictor",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "Sampler",
    "Samples",
    "Step",
    "StepSampler",
    "StochasticAdams",
    "StochasticDPMSolver",
    "StochasticHeun",
    "Twisted",
]
