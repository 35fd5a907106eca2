"""Samples of an exact model, given the conditions that measures take, are as near to the data as other data are."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.metrics import measure_points
from sdegen.runs import conditions

DIRECTIONS = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
SETS = 24


def noise(count: int, *key: object) -> Tensor:
    return 0.3 * torch.randn(count, 2, generator=generator("cpu", *key), dtype=torch.float64)  # type: ignore[arg-type]


def numbers(i: int) -> Dataset:
    """Returns x = c (1, 2) + noise, with 400 rows to train on and 200 that are held out."""
    c = torch.randn(600, 1, generator=generator("cpu", i, "numbers"), dtype=torch.float64)
    x = c * DIRECTIONS[2] + noise(600, i, "rows")
    return Dataset(x[:400], x[400:], c=c[:400], held_out_c=c[400:])


def classes(i: int) -> Dataset:
    """Returns points around the three directions, which are their classes."""
    y = torch.randint(3, (600,), generator=generator("cpu", i, "classes"))
    x = DIRECTIONS[y] + noise(600, i, "rows")
    return Dataset(x[:400], x[400:], y=y[:400], held_out_y=y[400:], classes=3)


@pytest.mark.parametrize("count", [200, 900])
@pytest.mark.parametrize("data", [numbers, classes])
def test_an_exact_model_lies_at_the_floor(data: Callable[[int], Dataset], count: int) -> None:
    """Half of the sets lie below the median of as many random parts; given the held-out conditions, nearly all do."""
    ratios = []
    for i in range(SETS):
        dataset = data(i)
        points = conditions.of_data(dataset, data is classes, data is numbers, count, seed=i)
        means = points.c * DIRECTIONS[2] if points.y is None else DIRECTIONS[points.y]
        found = measure_points(dataset, means + noise(count, i, "exact"))["sliced_w1"]
        ratios.append(found["value"] / found["floor"])
    below = sum(ratio < 1 for ratio in ratios)
    # Three and a half binomial standard errors.
    assert abs(below - SETS / 2) <= 8 and 0.8 < median(ratios) < 1.25, (below, median(ratios))
