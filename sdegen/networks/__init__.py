"""Networks: functions (x, t) -> an array of the shape of x."""

from sdegen.networks.base import Network
from sdegen.networks.mlp import MLP
from sdegen.networks.oracle import Oracle

__all__ = ["MLP", "Network", "Oracle"]
