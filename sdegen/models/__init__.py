"""Models: networks whose output is turned into a score or into log-probabilities of classes.

Training and samplers are in packages of their own.
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
