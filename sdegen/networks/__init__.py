"""Networks for scores, which may take a condition such as the class, and networks that predict the class or the
condition of noisy data.

The package ``sdegen.models`` defines the meaning of a network's output.
"""

from sdegen.networks.base import Network
from sdegen.networks.classifier import ClassifierConv, ClassifierMLP
from sdegen.networks.condition import Classes, Condition, Field, Numbers, condition_of
from sdegen.networks.mlp import MLP
from sdegen.networks.oracle import Oracle
from sdegen.networks.regressor import RegressorConv, RegressorMLP
from sdegen.networks.scorenet import ScoreNet
from sdegen.networks.unet import UNet

__all__ = [
    "MLP",
    "Classes",
    "ClassifierConv",
    "ClassifierMLP",
    "Condition",
    "Field",
    "Network",
    "Numbers",
    "Oracle",
    "RegressorConv",
    "RegressorMLP",
    "ScoreNet",
    "UNet",
    "condition_of",
]
