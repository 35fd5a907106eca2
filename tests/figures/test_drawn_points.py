"""The labels of axes name the units of the numbers."""

from __future__ import annotations

import pytest
import torch

from sdegen import figures
from sdegen.datasets import Affine, Dataset
from sdegen.samplers import Samples
from sdegen.sde import VP


class Numbers(Dataset):
    """Data set of whole numbers from 100 on."""

    def __init__(self, d: int, **options: bool | Affine) -> None:
        super().__init__(100 + torch.arange(40.0 * d).reshape(40, d), **options)


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({}, "standardised"),
        ({"standardize": False}, "in the data's units"),
        ({"units": Affine(torch.full((2,), 100.0), torch.full((2,), 3.0))}, "in the network's units"),
    ],
    ids=["standard", "own", "other"],
)
def test_axes_name_the_units_of_their_numbers(options: dict, unit: str) -> None:
    dataset, times = Numbers(2, **options), torch.linspace(1, 0.01, 8)
    samples = Samples(torch.zeros(9, 2), 7, torch.randn(8, 9, 2, generator=torch.Generator().manual_seed(0)), times)
    assert figures.marginals(dataset, samples, VP()).get_supxlabel() == f"x(t), {unit}"
    axes = figures.trajectories(dataset, samples, VP()).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (f"$x_1(t)$, {unit}", f"$x_2(t)$, {unit}")


def test_a_line_names_its_units() -> None:
    samples = Samples(torch.zeros(9, 1), 7, torch.ones(8, 9, 1), torch.linspace(1, 0.01, 8))
    figure = figures.marginals(Numbers(1, standardize=False), samples, VP())
    assert figure.get_supxlabel() == "x(t), in the data's units"
