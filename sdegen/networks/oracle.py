"""The exact score in place of a network."""

from __future__ import annotations

from torch import Tensor

from sdegen.networks.base import Network
from sdegen.sde.base import LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals


class Oracle(Network):
    """Exact score of data from a Gaussian mixture. Samples with this score show the error of the sampler alone.

    There are no weights to train. The output is the score, and the option ``parametrization`` has no effect.

    Args:
        law: distribution of the data in the network's units, taken from the data set.
        sde: forward process, as in the option ``sde``.
    """

    exact = True
    process = LinearSDE

    def __init__(self, law: GaussianMixture | None, sde: LinearSDE) -> None:
        super().__init__()
        if law is None:
            raise ValueError(
                "the distribution of this data set is not known in the network's units: use dataset=gaussian_mixture, "
                "smile or smile_noisy, with dataset.standardize=true, false or robust"
            )
        self.score = Marginals(law, sde)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t)
