"""Points of a Gaussian mixture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, check_size
from sdegen.sde.mixture import GaussianMixture


class Mixture(Dataset):
    r"""Points of :math:`\sum_m w_m N(\mu_m, v_m I)` in any dimension: section 5.1 of the paper by default.

    Args:
        seed: supplied by the experiment.
        weights: w, above 0; they are normalised.
        means: μ, a list of coordinates for each component.
        variances: v, a variance (not a standard deviation) for each component, above 0.
        size: number of training points.
        standardize: see :class:`Dataset`.
    """

    def __init__(
        self,
        seed: int,
        weights: tuple[float, ...] = (0.5, 0.5),
        means: tuple[tuple[float, ...], ...] = ((-3.0,), (3.0,)),
        variances: tuple[float, ...] = (0.25, 1.0),
        size: int = 5000,
        standardize: bool | Literal["robust", "quantile"] = True,
    ) -> None:
        if len({len(mean) for mean in means}) != 1:
            raise ValueError("means must be lists of the same length: try means=[[-3],[3]]")
        if min(variances, default=0) <= 0:
            raise ValueError(f"variances={list(variances)} must be above 0")
        law = GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.tensor(variances))
        super().__init__(law.sample(check_size(size), generator("cpu", seed, "data")), None, law, standardize)
        self._law = law

    def draw(self, n: int, source: torch.Generator) -> Tensor:
        return self._law.sample(n, source)

    def modes(self, x: Tensor) -> Tensor:
        return self._law.component(x.double())
