"""Calibration: exact posteriors of a Gaussian pass the tests; samples that are off in any way do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen import figures
from sdegen.metrics import calibration

PAIRS, DRAWS = 2000, 63
NOISE = torch.tensor([0.5, 1.0]).double()
SOURCE = torch.Generator()


def pairs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns θ ~ N(0, I) and y = θ + noise, and the mean and the deviation of θ given y, from the textbook."""
    SOURCE.manual_seed(seed)
    theta = torch.randn(PAIRS, 2, generator=SOURCE, dtype=torch.float64)
    y = theta + NOISE * torch.randn(theta.shape, generator=SOURCE, dtype=torch.float64)
    return theta, y, y / (1 + NOISE**2), NOISE / (1 + NOISE**2).sqrt()


def found(seed: int, wide: float = 1.0, shift: float = 0.0, ignore: bool = False) -> calibration.Metrics:
    """Returns the metrics of samples that are too wide, shifted, or from the prior."""
    theta, y, mean, deviation = pairs(seed)
    z = torch.randn(PAIRS, DRAWS, 2, generator=SOURCE, dtype=torch.float64)
    draws = z if ignore else mean[:, None] + deviation * (shift + wide * z)
    by_column = calibration.ranks(theta, draws, SOURCE)
    # The reference is another parameter with nearly the same observation.
    by_distance = calibration.distance_ranks(theta, draws, y + torch.randn(y.shape, generator=SOURCE), SOURCE)
    return calibration.rank_metrics(by_column, by_distance, ["a", "b"])


@pytest.mark.parametrize("seed", range(5))
def test_exact_posteriors_pass(seed: int) -> None:
    metrics = found(seed)
    for test in ("sbc", "tarp"):
        assert metrics[test]["p_value"] > 0.01
        assert metrics[test]["value"] < 2 * metrics[test]["floor"]


@pytest.mark.parametrize(
    ("change", "tests", "words"),
    [
        ({"wide": 0.8}, ("sbc", "tarp"), "too narrow"),
        ({"wide": 1.25}, ("sbc", "tarp"), "too wide"),
        ({"shift": 0.2}, ("sbc",), "too high"),
        ({"shift": -0.2}, ("sbc",), "too low"),
        ({"ignore": True}, ("tarp",), ""),
    ],
)
def test_other_posteriors_are_found_out(change: dict, tests: tuple[str, ...], words: str) -> None:
    metrics = found(0, **change)
    assert {test for test in ("sbc", "tarp") if metrics[test]["p_value"] < 0.01} >= set(tests)
    theta, _, mean, deviation = pairs(0)
    z = torch.randn(PAIRS, DRAWS, 2, generator=SOURCE, dtype=torch.float64)
    off = mean[:, None] + deviation * (change.get("shift", 0.0) + change.get("wide", 1.0) * z)
    if words:
        assert calibration.deviation(calibration.ranks(theta, off, SOURCE)[:, 0]) == words


def test_samples_that_ignore_the_observation_pass_simulation_based_calibration_only() -> None:
    metrics = found(1, ignore=True)
    assert metrics["sbc"]["p_value"] > 0.01 > metrics["tarp"]["p_value"]


@pytest.mark.parametrize("n", [30, 400])
def test_p_values_are_shares_of_simulated_uniform_ranks(n: int) -> None:
    """The statistic is computed here as the largest error of an interval between two ranks."""
    u = np.sort(np.random.default_rng(n).random((3000, n)), axis=1)
    above, below = np.arange(1, n + 1) / n - u, np.arange(n) / n - u
    simulated = above.max(1) - below.min(1)
    assert calibration.interval_error(torch.from_numpy(u[0])) == pytest.approx(simulated[0])
    for share in (0.5, 0.1, 0.02):
        error = float(np.quantile(simulated, 1 - share))
        assert calibration.p_value(error, n) == pytest.approx(share, rel=0.15, abs=0.004)
    assert calibration.median_error(n) == pytest.approx(np.median(simulated), rel=0.02)
    largest = np.maximum(simulated[:1500], simulated[1500:])
    assert calibration.median_error(n, 2) == pytest.approx(np.median(largest), rel=0.02)


def test_ties_leave_the_ranks_uniform() -> None:
    source = torch.Generator().manual_seed(0)
    values = torch.randint(3, (4000, 8, 1), generator=source).double()
    u = calibration.ranks(values[:, 0], values[:, 1:], source)[:, 0]
    assert calibration.p_value(calibration.interval_error(u), len(u)) > 0.01
    assert len(u.unique()) == len(u)


def test_curves_of_few_ranks_reach_both_ends() -> None:
    """The share of the ranks below 0 is 0, and that of the ranks below 1 is 1."""
    middle = torch.linspace(0.3, 0.6, 10, dtype=torch.float64)
    left, right = figures.calibration(middle[:, None], middle, ["a"], (0.5, 0.5)).axes
    curve, coverage = left.lines[0].get_xydata(), right.lines[-1].get_xydata()
    assert [*curve[0], *curve[-1]] == [0, 0, 1, 0]
    assert [*coverage[0], *coverage[-1]] == [0, 0, 1, 1]
