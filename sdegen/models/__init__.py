"""Models: a network and the meaning of its output, as a score or as a classifier.

Training and samplers have rooms of their own.
"""

from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.parametrizations import (
    Affine,
    Data,
    Gaussian,
    Karras,
    Noise,
    Parametrization,
    Raw,
    Residual,
    Velocity,
)
from sdegen.models.score import ScoreModel

__all__ = [
    "Affine",
    "ClassifierModel",
    "Data",
    "Gaussian",
    "Karras",
    "Moments",
    "Noise",
    "Parametrization",
    "Raw",
    "Residual",
    "ScoreModel",
    "Velocity",
]
