"""The range test ends at the stability limit of a quadratic; the noise scale is that of the gradients of the rows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sdegen.config.assembly import build
from sdegen.config.compose import composed
from sdegen.training.calibration import LOWEST, MARGIN, noise_of, noise_scale, range_test
from sdegen.training.gradient import weighted_losses


@pytest.mark.parametrize("steepest", [4.0, 50.0, 3000.0])
@pytest.mark.parametrize("offset", [0.0, 30.0, -7.0])
def test_range_test_finds_the_stability_limit_of_gradient_descent(steepest: float, offset: float) -> None:
    """On ½ xᵀ H x, gradient descent is stable for rates below 2 / λ, with λ the largest eigenvalue of H.

    The gradient has noise, as that of a batch has: without noise, the error becomes so small that many unstable steps
    pass before it is seen.
    """
    source = torch.Generator().manual_seed(0)
    curvature = torch.tensor([steepest, steepest / 3, steepest / 10], dtype=torch.float64)
    x = torch.ones(3, dtype=torch.float64) * 3

    def loss() -> float:
        return float((curvature * x * x).sum() / 2) * 20 / steepest + offset

    def advance(rate: float) -> None:
        noise = torch.randn(3, generator=source, dtype=torch.float64)
        x.sub_(rate * curvature * (x + 0.1 * noise))

    found = range_test(advance, loss, 300)
    assert found.limit is not None and found.suggested is not None
    assert 0.8 <= found.limit / (2 / steepest) <= 1.8
    assert 0.7 / MARGIN <= found.suggested / (2 / steepest) <= 2 / MARGIN


def test_range_test_of_a_loss_that_never_falls_or_never_rises_suggests_nothing() -> None:
    rising, falling = itertools.count(1), itertools.count(1)
    assert range_test(lambda rate: None, lambda: float(next(rising)), 20).suggested is None
    assert range_test(lambda rate: None, lambda: 1 / next(falling), 20).suggested is None
    broken = iter([2.0, 1.0, math.nan])
    found = range_test(lambda rate: None, lambda: next(broken), 20)
    assert found.rates[0] == LOWEST and len(found.losses) == 3
    assert found.limit == found.rates[2]


@pytest.mark.parametrize("exact", [0.5, 40.0, 300.0])
def test_noise_scale_of_gradients_with_a_known_mean_and_covariance(exact: float) -> None:
    source = torch.Generator().manual_seed(0)
    deviations = torch.linspace(0.5, 2, 20, dtype=torch.float64)
    mean = torch.full((20,), float((deviations.square().sum() / exact / 20).sqrt()), dtype=torch.float64)
    sizes = [16, 64, 16] * 1000
    noise = torch.randn(3000, 20, generator=source, dtype=torch.float64) * deviations
    found = noise_scale(zip(sizes, mean + noise / torch.tensor(sizes)[:, None].sqrt(), strict=True))
    assert found == pytest.approx(exact, rel=0.1)
    assert noise_scale((16, gradient) for gradient in noise / 4) > 1e4


def test_noise_scale_of_a_training_is_that_of_the_gradients_of_its_rows() -> None:
    line = ["dataset=moons", "dataset.size=4096", "network.hidden=[4]", "network.fourier_features=2", "times=uniform"]
    line += ["weighting=variance", "trainer.batch_size=16", "trainer.precision=float64"]
    parts = build(composed("train", line))
    training = parts.training()
    before = training.vector.detach().clone()
    found = noise_of(training, 0, 150)
    assert torch.equal(training.vector, before) and not training.gradient.sums.any()
    # The oracle has one gradient for each row, from autograd.
    other = parts._replace(trainer=build(composed("train", [*line, "trainer.gradient=autograd"])).trainer).training()
    rows = []
    for (batch,) in other.stream.steps(0, 150):
        losses = weighted_losses(other.models[0], other.gradient.objective, batch)
        for loss in losses:
            row = torch.autograd.grad(loss, list(other.models[0].parameters()), retain_graph=True)
            rows.append(torch.cat([part.flatten() for part in row]))
    gradients = torch.stack(rows)
    mean = gradients.mean(0)
    trace = (gradients - mean).square().sum() / (len(gradients) - 1)
    assert found == pytest.approx(float(trace / (mean.square().sum() - trace / len(gradients))), rel=0.25)
