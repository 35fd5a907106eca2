"""Models: networks whose output is turned into a score, or into a distribution of classes or conditions.

Training and samplers are in packages of their own.
"""

from sdegen.models.classifier import ClassifierModel
from sdegen.models.gaussian import Gaussian
from sdegen.models.likelihood import Likelihood
from sdegen.models.moments import Moments
from sdegen.models.parametrizations import (
    Affine,
    Data,
    Karras,
    Noise,
    Parametrization,
    Raw,
    Residual,
    Velocity,
)
from sdegen.models.regressor import Gaussians, RegressorModel
from sdegen.models.score import ScoreModel

__all__ = [
    "Affine",
    "ClassifierModel",
    "Data",
    "Gaussian",
    "Gaussians",
    "Karras",
    "Likelihood",
    "Moments",
    "Noise",
    "Parametrization",
    "Raw",
    "RegressorModel",
    "Residual",
    "ScoreModel",
    "Velocity",
]
