"""The accuracy of telling two sets apart agrees with the best accuracy, which is known for Gaussians."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from sdegen import metrics
from sdegen.datasets import Dataset, Mixture
from sdegen.metrics.two_sample import c2st


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def told(x: Tensor, dataset: Dataset) -> dict[str, float]:
    return metrics.measure_c2st(dataset, x, dataset.units.encode)["c2st"]


@pytest.mark.parametrize(("shift", "d"), [(0.5, 1), (1.0, 3), (2.0, 1)])
def test_shifted_gaussians_are_told_apart_nearly_as_well_as_possible(shift: float, d: int) -> None:
    """No classifier has more than Φ(δ/2), that of the halfway plane; a forest of 1000 + 1000 points comes near it."""
    best = norm.cdf(shift / 2)
    along = torch.eye(d, dtype=torch.float64)[0] * shift
    accuracy = c2st(lambda i: (normal(1000, d, 2 * i) + along, normal(1000, d, 2 * i + 1)))
    # Ten draws of 2000 tested points: one standard error is 0.0035.
    assert best - 0.04 < accuracy < best + 0.01


def test_different_correlations_are_told_apart_where_no_column_differs() -> None:
    mixed = torch.tensor([[1.0, 0.9], [0.0, 0.19**0.5]], dtype=torch.float64)
    assert c2st(lambda i: (normal(1000, 2, 2 * i) @ mixed, normal(1000, 2, 2 * i + 1))) > 0.68


@pytest.mark.parametrize("n", [20, 200, 1000])
def test_equal_distributions_have_half(n: int) -> None:
    assert 0.5 <= c2st(lambda i: (normal(n, 2, 2 * i), normal(n, 2, 2 * i + 1))) < 0.5 + 4 * 0.5 / (20 * n) ** 0.5


def test_sets_are_balanced_and_the_floor_is_that_of_real_points() -> None:
    """Of 4000 samples and 100 held-out points, a constant answer would be right in 97 % of the cases."""
    x = normal(5000, 2)
    train, held_out, samples = x.split([900, 100, 4000])
    found = told(samples, Dataset(train, held_out))
    for key in ("value", "floor"):
        assert 0.5 <= found[key] < 0.5 + 3 * found["standard_error"]
    assert found["floor_from"] == "training points in the place of samples"
    assert found["standard_error"] == pytest.approx(0.5 / 200**0.5)
    assert told(samples + 1.5, Dataset(train, held_out))["value"] > 0.8


def test_floor_sees_that_the_training_set_is_another_one() -> None:
    train, held_out = normal(1000, 1), normal(400, 1, 1) + 1
    found = told(normal(400, 1, 2) + 1, Dataset(train, held_out))
    assert found["value"] < 0.55 < 0.64 < found["floor"]


def test_exact_draws_are_the_reference_where_they_are_known() -> None:
    dataset = Mixture(0)
    exact = dataset.draw(1000, torch.Generator().manual_seed(5))
    assert exact is not None
    found = told(exact, dataset)
    assert max(found["value"], found["floor"]) < 0.5 + 3 * found["standard_error"]
    assert found["floor_from"] == "exact draws in the place of samples"
    # Without one of two equal modes, the best accuracy is 3/4.
    assert told(-exact.abs(), dataset)["value"] == pytest.approx(0.74, abs=0.03)


def test_result_is_the_same_in_every_unit_and_at_every_call() -> None:
    x, large = normal(900, 2), torch.tensor([1e-6, 1e6], dtype=torch.float64)
    first = told(x[500:] + 0.3, Dataset(x[:300], x[300:500]))
    torch.manual_seed(9)
    before = torch.get_rng_state()
    far = 1e9 * large
    again = told((x[500:] + 0.3) * large + far, Dataset(x[:300] * large + far, x[300:500] * large + far))
    assert torch.equal(torch.get_rng_state(), before)
    assert again["value"] == pytest.approx(first["value"], abs=0.02)
    assert told(x[500:] + 0.3, Dataset(x[:300], x[300:500])) == first


def test_nothing_is_told_without_enough_points() -> None:
    x = normal(200, 2)
    assert metrics.measure_c2st(Dataset(x), x, lambda x: x) == {}
    assert metrics.measure_c2st(Dataset(x, x[:9]), x, lambda x: x) == {}
    assert metrics.measure_c2st(Dataset(x, x[:50]), x[:9], lambda x: x) == {}
    assert metrics.measure_c2st(Dataset(x, x[:50]), x[:10], lambda x: x) != {}


def test_diverged_samples_are_told_apart() -> None:
    x = normal(400, 2)
    for value in (torch.inf, -torch.inf, torch.nan, 1e300):
        assert told(torch.full((200, 2), value, dtype=torch.float64), Dataset(x[:200], x[200:]))["value"] > 0.95
