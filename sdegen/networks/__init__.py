"""Networks: functions (x, t) -> an array of the shape of x, and classifiers of noisy x."""

from sdegen.networks.base import Network
from sdegen.networks.classifier import ClassifierConv, ClassifierMLP
from sdegen.networks.mlp import MLP
from sdegen.networks.oracle import Oracle
from sdegen.networks.scorenet import ScoreNet
from sdegen.networks.unet import UNet

__all__ = ["MLP", "ClassifierConv", "ClassifierMLP", "Network", "Oracle", "ScoreNet", "UNet"]
