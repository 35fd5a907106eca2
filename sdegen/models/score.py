"""The score model: a network and the meaning of its output.

Samplers, likelihoods and figures take any score: a trained :class:`ScoreModel`, an exact mixture, or any callable
``(x, t) -> (B, *)``.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from sdegen.core.schema import FromRun
from sdegen.models.parametrizations import Parametrization
from sdegen.networks.base import Network
from sdegen.sde.base import SDE, Score


class ScoreModel(nn.Module, FromRun):
    """A network read as a score: ``(x, t) -> (B, *)``.

    Args:
        network: the trainable function.
        parametrization: turns the network's output into the score.
        sde: the process with this score of its marginals.
    """

    def __init__(self, network: Network, parametrization: Parametrization, sde: SDE) -> None:
        super().__init__()
        self.network, self.parametrization, self.sde = network, parametrization, sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parametrization(self.network, self.sde, x, t)

    def given(self, y: Tensor) -> Score:
        r"""Returns the score :math:`\nabla_x \log p_t(x \mid y)` of a class; the network may ignore the class.

        ``y`` is one class, ``()``, or a class for each row, ``(B,)`` int64; -1 means no class.
        """
        if self.network.label_dropout is None:
            return self
        return partial(self.parametrization, partial(self.network, y=y), self.sde)
