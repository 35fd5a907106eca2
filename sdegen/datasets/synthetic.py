"""Points from known distributions: a Gaussian mixture, the smile of the paper, and well-known shapes in the plane."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, Standardize
from sdegen.datasets.checks import check_size
from sdegen.sde.arc import Arc
from sdegen.sde.mixture import GaussianMixture


class Mixture(Dataset):
    r"""Points of :math:`\sum_m w_m N(\mu_m, v_m I)` in any dimension, by default those of section 5.1 of the paper.

    The class of a point is the number of its component, from 0.

    Args:
        seed: seed of the points; from the run.
        weights: weights w, above 0; they are normalised to the sum 1.
        means: means μ, a list of coordinates for each component.
        variances: variances v (not standard deviations), one for each component, above 0.
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
        standardize: Standardize = True,
    ) -> None:
        if len({len(mean) for mean in means}) != 1:
            raise ValueError("means must be lists of the same length: try means=[[-3],[3]]")
        if min(variances, default=0) <= 0:
            raise ValueError(f"variances={list(variances)} must be above 0")
        labels = torch.arange(len(means))
        law = GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.tensor(variances), labels)
        points, y = law.sample_labelled(check_size(size), generator("cpu", seed, "data"))
        super().__init__(
            points,
            None,
            law,
            standardize,
            y=y,
            classes=len(means),
            draw_labelled=law.sample_labelled,
            modes=lambda x: law.component(x.double()),
        )


class Smile(Dataset):
    r"""A face with 100 points in each eye and 200 points in the mouth, as in section 5.2 of the paper.

    The eyes are :math:`N((\pm 0.6, 0.8), 0.02^2 I)`; the mouth is :math:`(x, -\sqrt{1 - x^2})` with
    :math:`x \sim U[-1, 1]`, plus :math:`N(0, \text{noise}^2 I)`. With noise, this is the data set of appendix E.
    The numbers of training points in the eyes and in the mouth are fixed, as in the paper. In :meth:`draw` they are
    random.

    Args:
        seed: seed of the points; from the run.
        noise: standard deviation of the noise on the mouth; 0 in section 5.2, 0.02 in appendix E.
        size: number of training points, a multiple of 4: a quarter for each eye, and half for the mouth.
        standardize: see :class:`Dataset`.
    """

    EYES, EYE_STD = torch.tensor([[-0.6, 0.8], [0.6, 0.8]], dtype=torch.float64), 0.02
    FINEST = 6e-4

    def __init__(self, seed: int, noise: float = 0.0, size: int = 400, standardize: Standardize = True) -> None:
        if size < 4 or size % 4:
            raise ValueError(f"size={size} must be a multiple of 4: a quarter for each eye, half for the mouth")
        self.noise = in_range("noise", noise, at_least=0)
        part = torch.arange(4).repeat_interleave(check_size(size) // 4).clamp(max=2)
        points = self._points(part, generator("cpu", seed, "data"))
        super().__init__(
            points,
            None,
            self._mixture(),
            standardize,
            draw=self._fresh,
            modes=self._nearest,
            off_support=self._outside,
        )

    def _points(self, part: Tensor, source: torch.Generator) -> Tensor:
        """Draws one point for each entry of ``part``: 0 and 1 are the eyes, 2 is the mouth."""
        x = 2 * torch.rand(len(part), generator=source, dtype=torch.float64) - 1
        z = torch.randn(len(part), 2, generator=source, dtype=torch.float64)
        mouth = torch.stack([x, -(1 - x**2).sqrt()], dim=1) + self.noise * z
        return torch.where(part[:, None] < 2, self.EYES[part.clamp(max=1)] + self.EYE_STD * z, mouth)

    def _fresh(self, n: int, source: torch.Generator) -> Tensor:
        return self._points(torch.randint(4, (n,), generator=source).clamp(max=2), source)

    def _nearest(self, x: Tensor) -> Tensor:
        """Returns the part nearest to each point: 0 and 1 for the eyes, 2 for the mouth."""
        return torch.cat([self._to_eyes(x), self._to_mouth(x)[:, None]], dim=1).argmin(1)

    def _outside(self, x: Tensor) -> Tensor:
        """Returns True farther than 0.08 (four standard deviations) from both eyes and 0.05 from the mouth."""
        return (self._to_eyes(x).amin(1) > 0.08) & (self._to_mouth(x) > 0.05)

    def _to_eyes(self, x: Tensor) -> Tensor:
        return torch.cdist(x.double(), self.EYES.to(x.device))

    def _to_mouth(self, x: Tensor) -> Tensor:
        """Returns the distances of the points to the mouth, which is the lower half of the unit circle."""
        x = x.double()
        corner = torch.stack([x[:, 0].abs() - 1, x[:, 1]], dim=1).norm(dim=1)
        return torch.where(x[:, 1] <= 0, (x.norm(dim=1) - 1).abs(), corner)

    def _mixture(self) -> GaussianMixture:
        r"""Returns the distribution as a Gaussian mixture, with components at equal angles for the mouth.

        With x uniform, the angle :math:`\theta` has density :math:`\tfrac12 \sin\theta`. A trapezoid rule with
        Gaussians of standard deviation s, spaced by h, has the error :math:`e^{-2 \pi^2 s^2/h^2}`, which is below 10⁻⁵
        for h below 1.3 s. The smallest s is the noise or, without noise, :math:`10^{-3}/1.7`, which is
        :math:`\sigma_\varepsilon` of VP in the user's units. Below it, the distribution has the curve itself.
        """
        nodes = math.ceil(math.pi / (1.3 * max(self.noise, self.FINEST)))
        theta = (torch.arange(nodes, dtype=torch.float64) + 0.5) * math.pi / nodes
        mouth = torch.stack([-theta.cos(), -theta.sin()], dim=1)
        weights = torch.cat([torch.full((2,), 0.25, dtype=torch.float64), 0.5 * theta.sin() / theta.sin().sum()])
        variances = torch.cat([torch.full((2,), self.EYE_STD**2), torch.full((nodes,), self.noise**2)])
        unit = torch.ones(2, dtype=torch.float64)
        arc = None if self.noise else Arc(0 * unit, unit, 0.9 * self.FINEST)
        return GaussianMixture(weights, torch.cat([self.EYES, mouth]), variances, arc=arc)


class Planar(Dataset, ABC):
    """Points in the plane that a function of the subclass draws, with their classes if :attr:`CLASSES` is above 0.

    Args:
        seed: seed of the points; from the run.
        noise: standard deviation of the noise, in the units of the points.
        size: number of training points.
        standardize: see :class:`Dataset`.
    """

    CLASSES = 0

    def __init__(self, seed: int, noise: float, size: int, standardize: Standardize) -> None:
        self.noise = in_range("noise", noise, at_least=0)
        points, y = self._fresh(check_size(size), generator("cpu", seed, "data"))
        if self.CLASSES:
            super().__init__(points, standardize=standardize, y=y, classes=self.CLASSES, draw_labelled=self._fresh)
        else:
            super().__init__(points, standardize=standardize, draw=lambda n, source: self._fresh(n, source)[0])

    def _fresh(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=source)))
        points, labels = self._recipe(n, numbers)
        return torch.from_numpy(np.ascontiguousarray(points)), torch.from_numpy(labels).long()

    @abstractmethod
    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws ``(n, 2)`` independent points; returns them and numbers ``(n,)``, the classes if there are classes."""


def _state(source: np.random.Generator) -> int:
    return int(source.integers(2**32))


class Moons(Planar):
    """Two interleaved half circles (scikit-learn's ``make_moons``); class 0 is the upper one, class 1 the lower one."""

    CLASSES = 2

    def __init__(self, seed: int, noise: float = 0.05, size: int = 5000, standardize: Standardize = True) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_moons

        return make_moons(n, noise=self.noise, random_state=_state(source))


class Circles(Planar):
    """Two concentric circles, the inner one with half the radius (scikit-learn's ``make_circles``).

    Class 0 is the outer circle, class 1 the inner one.
    """

    CLASSES = 2

    def __init__(self, seed: int, noise: float = 0.04, size: int = 5000, standardize: Standardize = True) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_circles

        return make_circles(n, noise=self.noise, factor=0.5, random_state=_state(source))


class SwissRoll(Planar):
    """A spiral: the first and the third coordinate of scikit-learn's ``make_swiss_roll``."""

    def __init__(self, seed: int, noise: float = 0.3, size: int = 5000, standardize: Standardize = True) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_swiss_roll

        points, along = make_swiss_roll(n, noise=self.noise, random_state=_state(source))
        return points[:, [0, 2]], along


class Checkerboard(Planar):
    """The uniform distribution on the eight dark squares of a 4 × 4 board of side 4, centred at 0.

    The class of a point is the number of its square, from 0: columns from left to right, in a column from below.
    """

    CLASSES = 8

    def __init__(self, seed: int, noise: float = 0.0, size: int = 5000, standardize: Standardize = True) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        column = source.integers(0, 4, n)
        upper = source.integers(0, 2, n)
        row = 2 * upper + column % 2
        corner = np.stack([column, row], axis=1) - 2.0
        points = corner + source.uniform(size=(n, 2)) + self.noise * source.normal(size=(n, 2))
        return points, 2 * column + upper


class Pinwheel(Planar):
    """Five Gaussian arms bent around the origin (Johnson et al. 2016, https://arxiv.org/abs/1603.06277).

    ``noise`` is the standard deviation of the points perpendicular to the radius, before an arm is bent. The class of a
    point is the number of its arm, from 0.
    """

    CLASSES = 5
    LENGTH, BEND = 0.3, 0.25

    def __init__(self, seed: int, noise: float = 0.1, size: int = 5000, standardize: Standardize = True) -> None:
        super().__init__(seed, noise, size, standardize)

    def _recipe(self, n: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        along, across = 1 + self.LENGTH * source.normal(size=n), self.noise * source.normal(size=n)
        arm = source.integers(0, self.CLASSES, n)
        angle = 2 * np.pi * arm / self.CLASSES + self.BEND * np.exp(along)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * along - sin * across, sin * along + cos * across], axis=1), arm
