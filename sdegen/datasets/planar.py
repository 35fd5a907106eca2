"""Well-known laws in the plane, from which any number of points can be drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, check_size


class Planar(Dataset, ABC):
    """Points in the plane whose law is known by a recipe.

    Args:
        seed: supplied by the experiment.
        noise: standard deviation of the noise, in the units of the points.
        size: number of training points.
        standardize: see :class:`Dataset`.
    """

    def __init__(self, seed: int, noise: float, size: int, standardize: bool | Literal["robust", "quantile"]) -> None:
        self.noise = in_range("noise", noise, at_least=0)
        super().__init__(self.draw(check_size(size), generator("cpu", seed, "data")), standardize=standardize)

    def draw(self, n: int, source: torch.Generator) -> Tensor:
        numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=source)))
        return torch.from_numpy(np.ascontiguousarray(self._recipe(n, numbers)))

    @abstractmethod
    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        """Draws ``(n, 2)`` independent points."""


def _state(source: np.random.Generator) -> int:
    return int(source.integers(2**32))


class Moons(Planar):
    """Two interleaved half circles (scikit-learn's ``make_moons``)."""

    def __init__(
        self, seed: int, noise: float = 0.05, size: int = 5000, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        from sklearn.datasets import make_moons

        return make_moons(n, noise=self.noise, random_state=_state(source))[0]


class Circles(Planar):
    """Two concentric circles, the inner of half the radius (scikit-learn's ``make_circles``)."""

    def __init__(
        self, seed: int, noise: float = 0.04, size: int = 5000, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        from sklearn.datasets import make_circles

        return make_circles(n, noise=self.noise, factor=0.5, random_state=_state(source))[0]


class SwissRoll(Planar):
    """A spiral: scikit-learn's ``make_swiss_roll`` seen from its side."""

    def __init__(
        self, seed: int, noise: float = 0.3, size: int = 5000, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        from sklearn.datasets import make_swiss_roll

        return make_swiss_roll(n, noise=self.noise, random_state=_state(source))[0][:, [0, 2]]


class Checkerboard(Planar):
    """The uniform law on the eight dark squares of a 4 × 4 board of side 4, centred at 0."""

    def __init__(
        self, seed: int, noise: float = 0.0, size: int = 5000, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        column = source.integers(0, 4, n)
        row = 2 * source.integers(0, 2, n) + column % 2
        corner = np.stack([column, row], axis=1) - 2.0
        return corner + source.uniform(size=(n, 2)) + self.noise * source.normal(size=(n, 2))


class Pinwheel(Planar):
    """Five Gaussian arms bent around the origin (Johnson et al. 2016, https://arxiv.org/abs/1603.06277).

    ``noise`` is the width of an arm at its middle.
    """

    ARMS, LENGTH, BEND = 5, 0.3, 0.25

    def __init__(
        self, seed: int, noise: float = 0.1, size: int = 5000, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> np.ndarray:
        along, across = 1 + self.LENGTH * source.normal(size=n), self.noise * source.normal(size=n)
        angle = 2 * np.pi * source.integers(0, self.ARMS, n) / self.ARMS + self.BEND * np.exp(along)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * along - sin * across, sin * along + cos * across], axis=1)
