r"""Expected loss of a model that knows little of the data: a unit in which the number of a loss has a meaning.

For denoising score matching, it is the loss of the exact score of a Gaussian with the mean and covariance of the data.
Let :math:`\Lambda_i` be the variances of the data along the principal axes. Along an axis, the score at
:math:`x_t = \alpha x_0 + \sigma z` is :math:`-c/v` with :math:`c = \alpha \xi + \sigma z` and
:math:`v = \alpha^2 \Lambda_i + \sigma^2`, where :math:`\xi` has mean 0 and variance :math:`\Lambda_i`. The residual
:math:`\sigma s + z = (\alpha^2 \Lambda_i z - \sigma \alpha \xi) / v` has the variance
:math:`\alpha^2 \Lambda_i / v`, whatever the distribution of :math:`\xi`. So

.. math:: E\left\| s(x_t, t) - \nabla \log p_{0t}(x_t \mid x_0) \right\|^2
          = \frac{\alpha_t^2}{\sigma_t^2} \sum_i \frac{\Lambda_i}{\alpha_t^2 \Lambda_i + \sigma_t^2}.

For a classifier, it is the cross entropy :math:`\log K` of equal probabilities of all K classes. Both are weighted
with :math:`\lambda(t)` and averaged over the times of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdegen.sde.base import SDE, LinearSDE
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

CELLS = 4096
"""Number of cells of the midpoint rule over the log noise-to-signal ratio."""


def gaussian(sde: LinearSDE, weighting: Weighting, times: TimeSampler, variances: Tensor) -> float:
    """Returns the expected loss of the score of a Gaussian.

    Args:
        sde: forward process.
        weighting: weight λ(t) of the loss.
        times: distribution of the times.
        variances: variances of the data along the principal axes, in the network's units, ``(d,)``.
    """

    def loss(t: Tensor) -> Tensor:
        signal, noise = sde.alpha(t) ** 2, sde.sigma(t) ** 2
        shares = values / (signal.unsqueeze(1) * values + noise.unsqueeze(1)) * counts
        return weighting(sde, t) * signal / noise * shares.sum(1)

    values, counts = variances.double().unique(return_counts=True)
    return _mean(sde, times, loss)


def chance(sde: SDE, weighting: Weighting, times: TimeSampler, classes: int) -> float:
    """Returns the expected loss of a classifier that gives equal probabilities to all classes."""
    return math.log(classes) * _mean(sde, times, lambda t: weighting(sde, t))


def _mean(sde: SDE, times: TimeSampler, loss: Callable[[Tensor], Tensor]) -> float:
    """Returns the mean of a function of t over the times of a training."""
    if times.grid is not None:
        return float(loss(torch.linspace(sde.eps, sde.T, times.grid, dtype=torch.float64)).mean())
    if sde.linear is None:
        middles = sde.eps + (sde.T - sde.eps) * (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
        return float(loss(middles).mean())
    # Near eps, the loss may be as steep as 1 / t: cells of equal width in the ratio are narrow there.
    low, high = sde.linear.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
    edges = sde.linear.time(torch.linspace(low, high, 2 * CELLS + 1, dtype=torch.float64)).clamp(sde.eps, sde.T)
    widths = edges[2::2] - edges[:-2:2]
    return float((loss(edges[1::2]) * widths).sum() / widths.sum())
