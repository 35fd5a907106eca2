"""The smile of the paper: two eyes and a mouth."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, check_size
from sdegen.sde.mixture import GaussianMixture

EYES = torch.tensor([[-0.6, 0.8], [0.6, 0.8]], dtype=torch.float64)
EYE_STD = 0.02


class Smile(Dataset):
    r"""A face of 100 points for each eye and 200 for the mouth: section 5.2 of the paper, with noise appendix E.

    The eyes are :math:`N((\pm 0.6, 0.8), 0.02^2 I)`; the mouth is :math:`(x, -\sqrt{1 - x^2})` with
    :math:`x \sim U[-1, 1]`, plus :math:`N(0, \text{noise}^2 I)`. The training set has the paper's fixed counts;
    in :meth:`draw` the counts are random as well.

    Args:
        seed: supplied by the experiment.
        noise: standard deviation of the noise on the mouth; 0 in section 5.2, 0.02 in appendix E.
        size: number of training points: a quarter for each eye, half for the mouth; a multiple of 4.
        standardize: see :class:`Dataset`.
    """

    def __init__(
        self, seed: int, noise: float = 0.0, size: int = 400, standardize: bool | Literal["robust", "quantile"] = True
    ) -> None:
        if size < 4 or size % 4:
            raise ValueError(f"size={size} must be a multiple of 4: a quarter for each eye, half for the mouth")
        self.noise = in_range("noise", noise, at_least=0)
        part = torch.arange(4).repeat_interleave(check_size(size) // 4).clamp(max=2)
        points = self._points(part, generator("cpu", seed, "data"))
        super().__init__(points, None, self._mixture(), standardize)

    def draw(self, n: int, source: torch.Generator) -> Tensor:
        part = torch.randint(4, (n,), generator=source).clamp(max=2)
        return self._points(part, source)

    def modes(self, x: Tensor) -> Tensor:
        """Returns the nearest part: 0 and 1 for the eyes, 2 for the mouth."""
        distances = torch.cat([torch.cdist(x.double(), EYES.to(x.device)), self._to_mouth(x)[:, None]], dim=1)
        return distances.argmin(1)

    def off_support(self, x: Tensor) -> Tensor:
        """Returns True for points farther than 0.08 (four deviations) from both eyes and 0.05 from the mouth."""
        eyes = torch.cdist(x.double(), EYES.to(x.device)).amin(1)
        return (eyes > 0.08) & (self._to_mouth(x) > 0.05)

    def _points(self, part: Tensor, source: torch.Generator) -> Tensor:
        """Draws a point of each part: 0 and 1 are the eyes, 2 is the mouth."""
        x = 2 * torch.rand(len(part), generator=source, dtype=torch.float64) - 1
        z = torch.randn(len(part), 2, generator=source, dtype=torch.float64)
        mouth = torch.stack([x, -(1 - x**2).sqrt()], dim=1) + self.noise * z
        return torch.where(part[:, None] < 2, EYES[part.clamp(max=1)] + EYE_STD * z, mouth)

    @staticmethod
    def _to_mouth(x: Tensor) -> Tensor:
        """Returns the distance to the lower half of the unit circle; above the axis, that to the nearer corner."""
        x = x.double()
        corner = torch.stack([x[:, 0].abs() - 1, x[:, 1]], dim=1).norm(dim=1)
        return torch.where(x[:, 1] <= 0, (x.norm(dim=1) - 1).abs(), corner)

    def _mixture(self) -> GaussianMixture:
        r"""Returns the law as a mixture, with nodes at equal angles for the mouth.

        With x uniform, the angle :math:`\theta` has density :math:`\tfrac12 \sin\theta`. A trapezoid rule over
        Gaussians of standard deviation s at distance h has the error :math:`e^{-2 \pi^2 s^2/h^2}`, which is below 10⁻⁵
        for nodes closer than 1.3 s. The smallest s is the noise or, without noise, :math:`10^{-3}/1.7`, which is
        :math:`\sigma_\varepsilon` of VP in these units.
        """
        nodes = math.ceil(math.pi / (1.3 * max(self.noise, 6e-4)))
        theta = (torch.arange(nodes, dtype=torch.float64) + 0.5) * math.pi / nodes
        mouth = torch.stack([-theta.cos(), -theta.sin()], dim=1)
        weights = torch.cat([torch.full((2,), 0.25, dtype=torch.float64), 0.5 * theta.sin() / theta.sin().sum()])
        variances = torch.cat([torch.full((2,), EYE_STD**2), torch.full((nodes,), self.noise**2)])
        return GaussianMixture(weights, torch.cat([EYES, mouth]), variances)
