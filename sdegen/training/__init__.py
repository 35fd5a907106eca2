"""Training: objectives, weights, times, batches, gradients, the optimiser and the loop.

Name the classes of ``times`` and ``weighting`` with the module, as in ``times.Uniform``, since both have a ``Uniform``.
"""

from sdegen.training import times, weighting
from sdegen.training.flow_map import FlowMap
from sdegen.training.gradient import Gradient
from sdegen.training.loop import Training
from sdegen.training.objective import Classification, Denoising, Implicit, Objective, Regression, Sliced
from sdegen.training.optimizer import Adam, Optimizer
from sdegen.training.times import TimeSampler
from sdegen.training.trainer import Trainer
from sdegen.training.weighting import Weighting

__all__ = [
    "Adam",
    "Classification",
    "Denoising",
    "FlowMap",
    "Gradient",
    "Implicit",
    "Objective",
    "Optimizer",
    "Regression",
    "Sliced",
    "TimeSampler",
    "Trainer",
    "Training",
    "Weighting",
    "times",
    "weighting",
]
