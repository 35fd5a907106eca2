"""The exact score in place of a network."""

from __future__ import annotations

from torch import Tensor

from sdegen.networks.base import Network
from sdegen.sde.base import LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals


class Oracle(Network):
    """Exact score of data from a Gaussian mixture, which shows the error of a solver without the error of a network.

    It has nothing to train. Its output is the score under every parametrization.

    Args:
        law: distribution of the data in the network's units; supplied by the experiment.
        sde: forward process; supplied by the experiment.
    """

    exact = True
    process = LinearSDE

    def __init__(self, law: GaussianMixture | None, sde: LinearSDE) -> None:
        super().__init__()
        if law is None:
            raise ValueError(
                "the distribution of this data set is not known in the network's units: network=oracle works with "
                "dataset=gaussian_mixture, smile and smile_noisy, and with dataset.standardize=true, false or robust"
            )
        self.score = Marginals(law, sde)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t)
