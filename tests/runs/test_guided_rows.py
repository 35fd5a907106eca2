"""Guidance with a condition for each sample: linear-Gaussian data, whose posteriors follow from textbook formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_conditions import MATRIX, NOISE, OBSERVED, SAMPLERS, UNITS, Exact, model, posterior
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.guidance import AutoGuidance, ClassifierFree, Guidance, Regressor
from sdegen.models import Raw, RegressorModel, ScoreModel
from sdegen.networks import Network
from sdegen.networks.oracle import Oracle
from sdegen.runs.sampling import draw
from sdegen.samplers import Dopri5, Sampler
from sdegen.sde import VP
from sdegen.sde.base import LinearSDE
from sdegen.sde.mixture import GaussianMixture

EYE = torch.eye(2, dtype=torch.float64)
# With this rate, almost nothing of the mean is left at T, so that the prior N(0, I) is accurate.
SDE = VP(0.1, 60.0)


class Likely(Network):
    """Network with the exact Gaussian of y = Aθ + noise given x_t, for θ ~ N(0, I)."""

    predicts = "condition"

    def __init__(self, sde: LinearSDE) -> None:
        super().__init__()
        self.sde = sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, variance = (part.expand(len(x))[:, None, None] for part in (self.sde.alpha(t), self.sde.sigma(t) ** 2))
        covariance = variance / (alpha**2 + variance) * MATRIX @ MATRIX.T + NOISE**2 * EYE
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        scales = inverse.diagonal(dim1=1, dim2=2)
        mean = (MATRIX * alpha / (alpha**2 + variance) @ x[:, :, None]).squeeze(2)
        lower = inverse[:, 1:, 0] / scales[:, 1:]
        return torch.cat([torch.zeros(len(x), 1), mean, scales.log(), lower], dim=1).unsqueeze(1)


def prior() -> ScoreModel:
    """Returns the exact score of θ ~ N(0, I)."""
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    return ScoreModel(Oracle(law, SDE), Raw(), SDE)


class Weak(Exact):
    """Network with scores of the posteriors that are too small."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return 0.8 * super().forward(x, t, y)


def weak() -> ScoreModel:
    return ScoreModel(Weak(SDE), Raw(), SDE)


GUIDANCES: dict[str, tuple[ScoreModel, Callable[[Tensor, float], Guidance]]] = {
    "classifier_free": (model(SDE), lambda y, scale: ClassifierFree(y, scale, (0.1, 0.6))),
    "regressor": (prior(), lambda y, scale: Regressor(RegressorModel(Likely(SDE), SDE), y, scale, (0.1, 0.6))),
    "auto": (
        model(SDE),
        lambda y, scale: AutoGuidance(y, weak(), "last", scale, (0.1, 0.6)),
    ),
}


def sampled(kind: str, y: Tensor, scale: float, sampler: Sampler, count: int, batch_size: int = 40) -> Tensor:
    score, guidance = GUIDANCES[kind]
    options = {"batch_size": batch_size, "dtype": torch.float64, "guidance": guidance(y, scale)}
    return draw(SDE, score, sampler, UNITS, count, **options).x  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize("kind", GUIDANCES)
def test_a_condition_of_each_sample_guides_it_as_one_condition_for_all(kind: str, sampler: Sampler) -> None:
    """Rows enter and leave the interval, and finish, at different times. Each must keep its condition."""
    together = sampled(kind, OBSERVED, 1.7, sampler, 70)
    for i in (0, 39, 41, 69):
        alone = sampled(kind, OBSERVED[i], 1.7, sampler, 70)[i]
        torch.testing.assert_close(together[i], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", GUIDANCES)
def test_samples_with_scale_one_have_the_posterior_of_their_own_observation(kind: str) -> None:
    """The flow maps draws of the prior to the posterior, and the whitened samples are standard normal."""
    y = torch.randn(1500, 2, generator=generator("cpu", 3, "observed"), dtype=torch.float64) * 2
    mean, covariance = posterior(y)
    x = sampled(kind, y, 1.0, Dopri5(1e-3, 1e-3), 1500, 1500)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).T, upper=False)
    # Five standard errors of a mean and of a variance.
    assert float(white.mean(1).abs().max()) < 0.13 and float((white.cov() - EYE).abs().max()) < 0.19
