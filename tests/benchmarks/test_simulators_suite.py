"""The reference of the benchmark of posteriors: the fit that knows the family of the exact posterior."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "benchmarks"))

from suites.simulators import fitted  # noqa: E402

from sdegen.datasets import LinearGaussian, ObservedMixture  # noqa: E402


def test_the_fit_of_one_gaussian_is_least_squares() -> None:
    """The posterior is a Gaussian about the regression of the parameters, with the covariance of its residuals."""
    data = LinearGaussian(3, dimensions=3, size=400)
    assert data.c is not None
    x, design = data.x.numpy(), np.column_stack([data.c.numpy(), np.ones(400)])
    slope = np.linalg.lstsq(design, x, rcond=None)[0]
    rest = x - design @ slope
    y = torch.tensor([0.3, -1.2, 0.5])
    found = fitted(data, 1, 0)(y)
    assert found.means[0, :3].numpy() == pytest.approx(np.append(y, 1) @ slope, abs=1e-5)
    # The fit adds 1e-6 to each variance of the pairs.
    np.testing.assert_allclose(found.covariances[0, :3, :3], rest.T @ rest / 400, atol=1e-4)


def test_the_fit_of_three_gaussians_is_near_the_exact_posterior() -> None:
    """With 20,000 simulations, the mean of the posterior is off by hundredths of a standard deviation."""
    data = ObservedMixture(1, size=20_000)
    given = fitted(data, 3, 0)
    for number in (-1.5, 0.2, 2.0):
        y = torch.tensor([number])
        found, exact = given(y), data.prior.given(data.MATRIX, y, data.noise)
        means = [(one.weights @ one.means)[:2] for one in (found, exact)]
        torch.testing.assert_close(*means, atol=0.06, rtol=0)
