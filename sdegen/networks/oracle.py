"""The exact score in place of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.networks.base import Network
from sdegen.networks.condition import NONE, Classes
from sdegen.sde.base import LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals


class Oracle(Network):
    """Exact score of data from a Gaussian mixture. Samples with this score show the error of the sampler alone.

    There are no weights to train. The output is the score, and the option ``parametrization`` has no effect. If the
    components of the mixture have classes, the network takes the class, and returns the exact score of the class.

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
        self.scores = {NONE: Marginals(law, sde)}
        if law.labels is not None:
            classes = int(law.labels.max()) + 1
            self.condition = Classes(classes)
            self.scores |= {label: Marginals(law.of_class(label), sde) for label in range(classes)}

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None or y.ndim == 0:
            return self.scores[NONE if y is None else int(y)](x, t)
        y, score = y.to(x.device), torch.empty_like(x)
        for label in y.unique().tolist():
            own = y == label
            score[own] = self.scores[label](x[own], t if t.ndim == 0 else t[own])
        return score
