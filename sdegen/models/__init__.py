"""Models: a network read as a score or as a classifier.

Their training and sampling are rooms of their own.
"""

from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import (
    Affine,
    Data,
    Gaussian,
    Karras,
    Noise,
    Parametrization,
    Raw,
    Residual,
    ScoreModel,
    Velocity,
)

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
