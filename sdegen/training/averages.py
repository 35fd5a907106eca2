r"""Averages of the weights over the steps of a training, and any such average from stored ones.

Let θ(τ) be the weights after step k for k − 1 < τ ≤ k. The average of power form with the exponent γ is, after t steps,

.. math:: \hat\theta_{\gamma,t} = \int_0^t p_{\gamma,t}(\tau) \, \theta(\tau) \, d\tau, \qquad
          p_{\gamma,t}(\tau) = (\gamma + 1) \, \tau^\gamma / t^{\gamma + 1} .

Its profile p has the same shape at each t. The width σ is the standard deviation of τ/t, which has a beta distribution:

.. math:: \sigma = \sqrt{\gamma + 1} \, / \, \big((\gamma + 2) \sqrt{\gamma + 3}\big) .

A step keeps the share :math:`(1 - 1/t)^{\gamma + 1}` of the average, so that the average is exact, not only for long
trainings. The default decay of ``trainer.ema`` is close to γ = 8, σ = 0.09, in the first 9000 steps.

An average that was not tracked is approximated by a combination of stored ones, :math:`\sum_i x_i
\hat\theta_{\gamma_i,t_i}` with :math:`\sum_i x_i = 1`. Let P be the integral of a profile,

.. math:: P_{\gamma,t}(\tau) = \min(1, \tau/t)^{\gamma + 1}, \qquad E = \sum_i x_i P_{\gamma_i,t_i} - P_{\gamma,t} .

E is 0 from t on. Integration by parts gives the error of the combination, and its expected square if the changes of the
weights in disjoint intervals of log τ are uncorrelated and of the same size, as those of a training that learns fast at
first:

.. math:: \sum_i x_i \hat\theta_i - \hat\theta = -\int_0^t E(\tau) \, d\theta(\tau), \qquad
          \mathbb{E} \, \lVert \cdot \rVert^2 \propto \lVert E \rVert^2 = \int_0^t E(\tau)^2 \, \frac{d\tau}{\tau} .

The coefficients minimise this. The inner products have a closed form: for :math:`t_a \le t_b` and exponents
:math:`a = \gamma_a + 1`, :math:`b = \gamma_b + 1`,

.. math:: \int_0^t P_a P_b \, \frac{d\tau}{\tau} = \frac{r}{a + b} + \frac{1 - r}{b} + \log \frac{t}{t_b}, \qquad
          r = \Big(\frac{t_a}{t_b}\Big)^b .

The reference minimises :math:`\int (\sum_i x_i p_i - p)^2 d\tau` instead, and then divides the coefficients by their
sum, which the least squares do not imply. For widths from 0.2 on, it was 5 to 15 times less accurate in our trainings,
because it weighs the fast changes at the beginning too little; below 0.05, neither was always better.

Reference: Karras et al. (2024), section 3 and appendix C, https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdegen.core.tensors import flatten_parameters
from sdegen.training.buffers import average_of, follow
from sdegen.training.gradient import Model

NARROWEST = 1e-4
"""Smallest width, far below those that can be had from snapshots."""
WIDEST = 0.288
"""Largest width. The mean of the weights of all steps, γ = 0, has the width 1/√12."""
APART = 1.5
"""Smallest ratio of two tracked widths. Averages of closer widths say little about other widths."""


class Average:
    """Moving average of models that are trained together.

    Args:
        models: models under training.
        decay: function of the number of steps taken, with the share of the average that the last step keeps.

    Attributes:
        models: models with the averaged weights.
        vector: averaged trainable parameters of all models.
    """

    def __init__(self, models: Sequence[Model], decay: Callable[[int], float]) -> None:
        self.models, self.decay = [average_of(model) for model in models], decay
        parameters = [p for model in self.models for p in model.parameters()]
        self.vector = flatten_parameters(parameters).data
        for p in parameters:
            # An average takes no gradient, which would need as much memory as the weights.
            p.grad = None

    def follow(self, step: int, weights: Tensor, models: Sequence[Model]) -> None:
        """Updates the average after a step.

        Args:
            step: number of steps taken.
            weights: trainable parameters of all models.
            models: models whose buffers are averaged, too; empty if the step has changed no buffers.
        """
        decay = self.decay(step)
        self.vector.lerp_(weights, 1 - decay)
        for model, average in zip(models, self.models, strict=False):
            follow(model.network, average.network, decay)


def ramp(ema: float) -> Callable[[int], float]:
    """Returns the decay of an exponential average that is shorter in the first steps."""
    return lambda step: min(ema, step / (step + 9))


def power(width: float) -> Callable[[int], float]:
    """Returns the decay of the average of power form with a width."""
    gamma = exponent(width)
    return lambda step: (1 - 1 / step) ** (gamma + 1)


def exponent(width: float) -> float:
    """Returns the exponent γ of the profile with a width of at most :data:`WIDEST`."""
    # γ is the root of a cubic that is convex for γ > 0, so that Newton's method falls towards the root from its right.
    square, gamma = width**-2, 1 / width
    while True:
        value = (gamma + 2) ** 2 * (gamma + 3) - square * (gamma + 1)
        slope = (gamma + 2) * (3 * gamma + 8) - square
        if not (lower := gamma - value / slope) < gamma:
            return gamma
        gamma = lower


def combination(stored: Sequence[tuple[int, float]], step: int, width: float) -> tuple[list[float], float]:
    """Returns the coefficients of stored averages in the combination that is closest to another average.

    Args:
        stored: step and width of each stored average.
        step: step of the other average, at least that of each stored one.
        width: width of the other average.

    Returns:
        Coefficients, and the error ‖E‖.
    """
    steps = torch.tensor([*(at for at, _ in stored), step], dtype=torch.float64)
    powers = torch.tensor([*(exponent(own) + 1 for _, own in stored), exponent(width) + 1], dtype=torch.float64)
    products, n = _products(steps, powers), len(stored)
    # The last row of the system makes the sum 1.
    scale = products.diagonal().rsqrt()
    scaled, ones = products * scale * scale[:, None], (scale / scale[-1])[:n]
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n], system[n, :n], system[:n, n] = scaled[:n, :n], ones, ones
    right = torch.cat([scaled[:n, n], scaled.new_ones(1)])
    found = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution[:n, 0]
    off = torch.cat([found, -found.new_ones(1)])
    return (found * ones).tolist(), math.sqrt(max(float(off @ scaled @ off), 0.0)) / float(scale[-1])


def apart(one: float, other: float) -> float:
    """Returns the distance ‖E‖ of the averages of two widths after the same step."""
    a, b = exponent(one) + 1, exponent(other) + 1
    return abs(a - b) / math.sqrt(2 * a * b * (a + b))


def _products(steps: Tensor, powers: Tensor) -> Tensor:
    """Returns the inner products of the integrals of profiles, of which the last has the last step."""
    # In logarithms, powers of large steps do not overflow.
    logs = steps.log()
    last = torch.maximum(logs, logs[:, None])
    later = torch.where(logs >= logs[:, None], powers, powers[:, None])
    share = (later * (torch.minimum(logs, logs[:, None]) - last)).exp()
    return share / (powers + powers[:, None]) + (1 - share) / later + logs[-1] - last
