"""Likelihoods of noisy data: the base class of classifiers and regressors, and their values over time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from sdegen.core.randomness import generator, randn_like
from sdegen.core.schema import FromRun
from sdegen.networks.base import Network
from sdegen.sde.base import SDE, LinearSDE
from sdegen.sde.change import Change

BATCH = 1000
"""Number of points for which a likelihood is computed at once."""


class Likelihood(nn.Module, FromRun, ABC):
    r"""A network with a distribution :math:`p_t(y \mid x)` as output, which can guide a score towards y.

    Args:
        network: trainable function, which returns the numbers of the distribution.
        sde: process that adds the noise.
        change: map to the path of the training; None if the network was trained along the path of ``sde``.
    """

    def __init__(self, network: Network, sde: SDE, change: Change | None = None) -> None:
        super().__init__()
        self.network, self.sde, self.change = network, sde, change

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the output of the network at a point of the path of ``sde``."""
        if self.change is not None:
            x, t, _ = self.change(x, t)
        return self.network(x, t)

    def along(self, sde: LinearSDE) -> Self:
        """Returns the likelihood of points of another path: see :meth:`sdegen.models.ScoreModel.along`."""
        assert self.sde.linear is not None
        return type(self)(self.network, sde, Change(sde, self.sde.linear))

    @abstractmethod
    def given(self, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        r"""Returns the log-likelihood :math:`\log p_t(y \mid x)`: ``(x, t) -> (B,)``.

        ``y`` is one value for all rows, or a value for each row.
        """


@torch.no_grad()
def by_time(
    sde: SDE, x: Tensor, y: Tensor, times: Tensor, measure: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """Returns the result of a function of noisy points, for all points at each time.

    The noise is the same in every call.

    Args:
        sde: process that adds the noise.
        x: clean data in the network's units, ``(N, *)``.
        y: class or condition of each point, ``(N, *)``.
        times: times, ``(F,)``.
        measure: function ``(x_t, t, y)`` of noisy points ``(B, *)``, a time ``()`` and their ``y``, which returns
            tensors of B rows.
    """
    source, found = randn_like(generator(x.device, 0, "accuracy")), []
    for t in times.to(x.device):
        parts = [
            measure(sde.perturb(clean, t.expand(len(clean)), source), t, own)
            for clean, own in zip(x.split(BATCH), y.split(BATCH), strict=True)
        ]
        found.append(tuple(torch.cat(column) for column in zip(*parts, strict=True)))
    return found
