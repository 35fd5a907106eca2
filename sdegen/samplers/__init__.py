"""Samplers, which move draws of the prior at T to samples at eps along the reverse process.

Guided scores come from the package ``sdegen.guidance``.
"""

from sdegen.samplers.adaptive import RK45, AdaptiveSDE, Dopri5, ProbabilityFlow
from sdegen.samplers.base import Corrector, Moved, Predictor, Sampler, Samples, Step
from sdegen.samplers.correctors import HMC, AnnealedLangevin, Langevin, MetropolisHMC
from sdegen.samplers.exponential import Adams, DPMSolver, StochasticAdams, StochasticDPMSolver
from sdegen.samplers.flow_map import FlowMap
from sdegen.samplers.heun import Heun
from sdegen.samplers.predictors import DDIM, RK4, Ancestral, EulerMaruyama, ReverseDiffusion, StochasticHeun
from sdegen.samplers.steps import StepSampler, Twisted

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
    "FlowMap",
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
