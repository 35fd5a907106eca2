"""The smile without noise is a curve: its exact score far below the spacing of the points that stand for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch import Tensor

from sdegen.datasets import Smile
from sdegen.networks.oracle import Oracle
from sdegen.sde import SubVP

DATA = Smile(0)
EYES, EYE_VARIANCE = np.array([[-0.6, 0.8], [0.6, 0.8]]), 0.02**2


def by_quadrature(x: Tensor, alpha: float, sigma: float) -> tuple[np.ndarray, float]:
    """Returns the score and the log-density at a point, from SciPy's integrals over the angle of the mouth."""
    affine, point = DATA.units.affine, x.numpy()
    assert affine is not None
    shift, scale = affine.shift.numpy(), affine.scale.numpy()

    def off(theta: float) -> np.ndarray:
        return point - alpha * (np.array([-math.cos(theta), -math.sin(theta)]) - shift) / scale

    def distance(theta: float) -> float:
        return (off(theta) ** 2).sum() / (2 * sigma**2)

    found = minimize_scalar(distance, bounds=(0, math.pi), method="bounded", options={"xatol": 1e-12})
    near, least = min((found.x, 0.0, math.pi), key=distance), min(found.fun, distance(0.0), distance(math.pi))
    # In units of σ, from the nearest point.
    ends = [min(max(k, -near / sigma), (math.pi - near) / sigma) for k in (-15, -8, -4, -2, -1, 0, 1, 2, 4, 8, 15)]

    def integral(weight) -> float:  # noqa: ANN001
        def density(u: float) -> float:
            theta = near + sigma * u
            return weight(off(theta) / sigma) * 0.25 * math.sin(theta) * math.exp(least - distance(theta))

        size = 1e-11 * max(math.sin(near), sigma)
        return sigma * sum(quad(density, a, b, epsabs=size, epsrel=1e-9)[0] for a, b in itertools.pairwise(ends))

    mass = integral(lambda z: 1.0) / (2 * math.pi * sigma**2)
    slope = np.array([integral(lambda z, i=i: z[i]) for i in (0, 1)]) / (2 * math.pi * sigma**3)
    variance = alpha**2 * EYE_VARIANCE / scale**2 + sigma**2
    for eye in EYES:
        z = point - alpha * (eye - shift) / scale
        own = 0.25 * math.exp(least - (z**2 / (2 * variance)).sum()) / (2 * math.pi * math.sqrt(variance.prod()))
        mass, slope = mass + own, slope + own * z / variance
    return -slope / mass, math.log(mass) - least


@pytest.mark.parametrize("sigma", [1e-6, 1e-5, 3e-4, 8e-4])
def test_score_near_the_mouth_is_that_of_the_curve(sigma: float) -> None:
    """Points in the middle, on a slope, near an end and at an end of the mouth, off it by a few σ."""
    theta = torch.tensor([1.5, 0.7, 0.02, 0.0], dtype=torch.float64)
    mouth = torch.stack([-theta.cos(), -theta.sin()], 1)
    around = torch.tensor([[0.5, -1.0], [1.5, 2.0], [-1.0, 0.3], [-0.7, 0.2]], dtype=torch.float64)
    alpha = 0.999
    x = alpha * DATA.units.encode(mouth) + sigma * around
    law = DATA.encoded_law
    assert law is not None
    score = law.score(x, alpha, torch.full((4,), sigma, dtype=torch.float64))
    density = law.log_prob(x, alpha, sigma)
    for i in range(4):
        expected, log_p = by_quadrature(x[i], alpha, sigma)
        assert float(sigma * np.abs(score[i].numpy() - expected).max()) < 1e-6
        assert float(density[i]) == pytest.approx(log_p, abs=1e-6)


def test_each_row_has_the_score_of_its_own_time() -> None:
    """Rows with the curve are mixed with rows with its points, and eyes with the mouth."""
    sde, law = SubVP(), DATA.encoded_law
    x0 = DATA.units.encode(DATA.x[::40])
    t = torch.logspace(-5, 0, len(x0), dtype=torch.float64)[torch.randperm(len(x0))]
    x = sde.perturb(x0, t, torch.randn_like)
    score = Oracle(law, sde)(x, t)
    for i in range(len(x)):
        torch.testing.assert_close(score[i : i + 1], Oracle(law, sde)(x[i : i + 1], t[i]), rtol=1e-10, atol=1e-10)


def test_score_is_the_gradient_of_the_log_density_of_the_curve() -> None:
    law, sigma = DATA.encoded_law, 1e-4
    assert law is not None
    x = DATA.units.encode(torch.tensor([[0.0, -1.0], [-0.8, -0.6], [0.6, 0.81]], dtype=torch.float64)) + 0.5 * sigma
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(point, 1.0, sigma).sum(), point)
    torch.testing.assert_close(law.score(x, 1.0, sigma), gradient, rtol=1e-9, atol=1e-6 / sigma)
