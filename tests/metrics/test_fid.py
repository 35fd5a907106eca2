"""FID against the customary implementation, and its extrapolation on Gaussians with a known distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from sdegen import figures
from sdegen.metrics.distances import frechet
from sdegen.metrics.extrapolation import FEWEST, PARTS, by_count, fid


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def customary(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the FID as the field computes it: by the square root of the product of the covariances."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(a @ b)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root.real))


@pytest.mark.parametrize(("n", "m", "d"), [(128, 200, 64), (500, 300, 32), (40, 4000, 3)])
def test_fid_is_that_of_the_customary_implementation(n: int, m: int, d: int) -> None:
    # Features of networks are not negative, correlated and of very different sizes.
    mix = normal(d, d, 0) * torch.logspace(-2, 2, d).double()
    x, y = (normal(n, d, 1) @ mix).relu(), (normal(m, d, 2) @ mix + 0.3).relu()
    assert fid(x, y) == pytest.approx(customary(x.numpy(), y.numpy()), rel=1e-6)


def test_frechet_has_the_divisor_n_and_no_square() -> None:
    """The sets are multiples of one set, so the square roots of the covariances are multiples of each other."""
    x = normal(10, 4, 0)
    x = x - x.mean(0)
    trace = float(x.square().sum()) / 10
    assert frechet(x, 3 * x) == pytest.approx(2 * trace**0.5)
    assert fid(x, 3 * x) == pytest.approx(4 * trace * 10 / 9)
    assert fid(x, x) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.2, 1.1), (0.1, 0.7)])
def test_extrapolation_removes_most_of_the_bias(shift: float, scale: float) -> None:
    """N(μ, s²I) and N(0, I) in d dimensions have the distance d (μ² + (s − 1)²)."""
    d, n, draws = 16, 400, 40
    known, reference = d * (shift**2 + (scale - 1) ** 2), normal(40_000, d, 999)
    found = [by_count(scale * normal(n, d, seed) + shift, reference) for seed in range(draws)]
    values, limits = (
        torch.tensor(part) for part in zip(*((one.values[0], one.infinity) for one in found), strict=True)
    )
    bias = float(values.mean()) - known
    assert bias > 6 * float(values.std()) / draws**0.5
    assert abs(float(limits.mean()) - known) < 0.15 * bias
    # The stated error is near the spread over sets of samples, or larger.
    assert 0.7 < np.mean([one.error for one in found]) / float(limits.std()) < 2.5


def test_values_are_those_of_parts_that_share_no_sample() -> None:
    """The mean over disjoint parts is unbiased, and a line through exact values of 1 / n is that line."""
    x, y = normal(400, 2, 0) + 1, normal(500, 2, 1)
    found = by_count(x, y)
    assert found.counts == [400, 200, 133, 100, 80]
    assert found.values[0] == pytest.approx(customary(x.numpy(), y.numpy()))
    fitted = np.polyfit(1 / np.array(found.counts), found.values, 1, cov="unscaled")
    np.testing.assert_allclose([found.slope, found.infinity], fitted[0])
    residuals = np.array(found.values) - np.polyval(fitted[0], 1 / np.array(found.counts))
    assert found.error_of_fit == pytest.approx((residuals @ residuals / (PARTS - 2) * fitted[1][1, 1]) ** 0.5)
    assert by_count(x, y) == found


def test_fewest_samples_and_singular_covariances_have_a_finite_value() -> None:
    found = by_count(normal(FEWEST, 30, 0), normal(25, 30, 1))
    assert all(np.isfinite(number) for number in (*found.values, found.infinity, found.error, found.error_of_fit))


def test_figure_shows_the_values_over_one_over_n_and_the_line_to_zero() -> None:
    axes = figures.fid(
        {"samples": ([100, 50], [3.0, 4.0], 2.0, 100.0, 0.5), "data": ([80, 40], [1.0, 2.0], 0.0, 80.0, 0.1)}
    ).axes[0]
    line, values = axes.lines[:2]
    np.testing.assert_allclose(np.array(line.get_xydata()), [[0, 2], [0.02, 4]])
    np.testing.assert_allclose(np.array(values.get_xydata()), [[0.01, 3], [0.02, 4]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["∞", "80", "40"]
    assert "samples, without the bias 2 ± 0.5" in axes.get_legend_handles_labels()[1]
