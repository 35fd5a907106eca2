"""Guidance, which turns the score of all data into the score of data that agree with a class, a condition
or a measurement.

Samplers use a guided score in the same way as an unguided score.
"""

from sdegen.guidance.classes import AutoGuidance, ClassifierFree, ClassifierGuidance, Guidance
from sdegen.guidance.gaussian import Isotropic, Moments
from sdegen.guidance.measurement import (
    Blur,
    Grey,
    Inpaint,
    Linear,
    LinearMeasurement,
    Measurement,
    SuperResolution,
)
from sdegen.guidance.noise import Gaussian, Noise, Poisson
from sdegen.guidance.operator import Operator, Together
from sdegen.guidance.posterior import Posterior, Replacement
from sdegen.guidance.regressor import Regressor

__all__ = [
    "AutoGuidance",
    "Blur",
    "ClassifierFree",
    "ClassifierGuidance",
    "Gaussian",
    "Grey",
    "Guidance",
    "Inpaint",
    "Isotropic",
    "Linear",
    "LinearMeasurement",
    "Measurement",
    "Moments",
    "Noise",
    "Operator",
    "Poisson",
    "Posterior",
    "Regressor",
    "Replacement",
    "SuperResolution",
    "Together",
]
