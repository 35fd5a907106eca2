"""Guidance, which turns the score of all data into the score of data that agree with a class, a condition
or a measurement.

Samplers use a guided score in the same way as an unguided score.
"""

from sdegen.guidance.classes import ClassifierFree, ClassifierGuidance, Guidance
from sdegen.guidance.measurement import Blur, Grey, Inpaint, Linear, Measurement, SuperResolution
from sdegen.guidance.posterior import Isotropic, Moments, Posterior, Replacement
from sdegen.guidance.regressor import Regressor

__all__ = [
    "Blur",
    "ClassifierFree",
    "ClassifierGuidance",
    "Grey",
    "Guidance",
    "Inpaint",
    "Isotropic",
    "Linear",
    "Measurement",
    "Moments",
    "Posterior",
    "Regressor",
    "Replacement",
    "SuperResolution",
]
