"""Guidance towards a condition, by a regressor of noisy data."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.guidance.classes import Interval, Learned
from sdegen.models.regressor import RegressorModel


class Regressor(Learned):
    r"""Guidance by a regressor of noisy data, which pulls a score towards a condition y.

    .. math:: s(x, t) + \gamma\, \nabla_x \log p_t(y \mid x)

    The score s is that of a network without the condition. At :math:`\gamma = 1` this is the score given the condition.

    Reference: section 4 of the paper

    Args:
        run: regressor; in a configuration, the folder of the run that trained it.
        y: condition in the network's units, the k numbers ``(k,)`` for all samples or ``(N, k)`` for each sample; an
            image is the vector of its entries. From the option ``condition`` of the command.
        scale: strength γ of the guidance.
        interval: first and last time at which ``scale`` applies; outside of it, γ is 1. None for all times.
    """

    contrasts = True

    def __init__(
        self, run: RegressorModel, y: Tensor | None, scale: float = 1.0, interval: Interval | None = None
    ) -> None:
        if y is None:
            raise ValueError("guidance=regressor needs a condition: give condition=[0.3,1.2], for example, or a file")
        super().__init__(run, torch.atleast_2d(y), scale, interval)
