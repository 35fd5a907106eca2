r"""The weight :math:`\lambda(t)` of the loss.

The weight decides which noise levels the network learns well. With the conditional score of the kernel as target,
:math:`E\|\nabla \log p_{t|0}\|^2 = d/\sigma_t^2`, so that only the smallest t have an effect if the weight is
constant. (The paper says that the weight damps "the beginning of training", which means small *t*, not early epochs.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

import torch
from torch import Tensor

from sdegen.sde.base import SDE, LinearSDE, S


class Weighting(ABC, Generic[S]):
    """Weight of the loss, a positive function of time.

    Attributes:
        process: type of process that the weighting works with.
    """

    process: type[SDE] = SDE

    @abstractmethod
    def __call__(self, sde: S, t: Tensor) -> Tensor:
        """Returns λ(t), shaped like ``t``."""


class Uniform(Weighting[SDE]):
    r"""The weight :math:`\lambda = 1`; according to the paper, training with this weight does not work."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Variance(Weighting[LinearSDE]):
    r"""The paper's weight :math:`\lambda = \sigma_t^2 \propto 1 / E\|\nabla \log p_{t|0}\|^2`: all t count equally."""

    process = LinearSDE

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return sde.sigma(t) ** 2


class Likelihood(Weighting[SDE]):
    r"""The weight :math:`\lambda = g(t)^2`, for which the loss bounds the negative log-likelihood.

    Reference: Song et al. (2021), Maximum likelihood training of score-based diffusion models,
    https://arxiv.org/abs/2101.09258
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.diffusion(t) ** 2
