"""Samplers: from the prior at T to data at eps, along the reverse process."""

from sdegen.samplers.base import Corrector, Predictor, Sampler, Samples, StepSampler
from sdegen.samplers.flow import RK45, Dopri5, ProbabilityFlow
from sdegen.samplers.predictors import EulerMaruyama

__all__ = [
    "RK45",
    "Corrector",
    "Dopri5",
    "EulerMaruyama",
    "Predictor",
    "ProbabilityFlow",
    "Sampler",
    "Samples",
    "StepSampler",
]
