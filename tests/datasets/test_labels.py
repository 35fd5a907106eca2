"""Points have the class of the part from which they were drawn, and a class is a data set of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import Checkerboard, Circles, Dataset, File, Mixture, Moons, Pinwheel
from sdegen.metrics import measure_labelled_points, measure_points, w1

LABELLED = (Moons, Circles, Checkerboard, Pinwheel, Mixture)
FAR = {"means": ((-20.0, 0.0), (0.0, 5.0), (30.0, 0.0)), "variances": (1.0, 0.25, 4.0), "weights": (0.2, 0.5, 0.3)}


def labels(dataset: Dataset) -> Tensor:
    assert dataset.y is not None
    return dataset.y


def test_moons_are_half_circles() -> None:
    """Class 0 is the upper half of the unit circle, and class 1 the lower half of the unit circle around (1, 1/2)."""
    dataset = Moons(0, noise=0.0)
    for label, centre, side in ((0, (0.0, 0.0), 1), (1, (1.0, 0.5), -1)):
        off = dataset.x[labels(dataset) == label] - torch.tensor(centre).double()
        torch.testing.assert_close(off.norm(dim=1), torch.ones(2500).double())
        assert bool((side * off[:, 1] > -1e-9).all())


def test_circles_have_the_radii_one_and_a_half() -> None:
    dataset = Circles(0, noise=0.0)
    torch.testing.assert_close(dataset.x.norm(dim=1), 1 - 0.5 * labels(dataset).double())


def test_squares_are_numbered_from_below_and_from_the_left() -> None:
    dataset = Checkerboard(0)
    corners = [(-2, -2), (-2, 0), (-1, -1), (-1, 1), (0, -2), (0, 0), (1, -1), (1, 1)]
    assert torch.equal(dataset.x.floor(), torch.tensor(corners).double()[labels(dataset)])


def test_arms_are_straight_once_they_are_bent_back() -> None:
    """Without noise, the angle of a point at the radius r is that of its arm plus e^r / 4."""
    dataset = Pinwheel(0, noise=0.0)
    radius, angle = dataset.x.norm(dim=1), torch.atan2(dataset.x[:, 1], dataset.x[:, 0])
    off = (angle - 0.25 * radius.exp() - 2 * math.pi * labels(dataset).double() / 5) / (2 * math.pi)
    # Two or three of 5000 points have a negative radius, more than three standard deviations below its mean.
    assert float(((off - off.round()).abs() < 1e-9).double().mean()) > 0.995


def test_components_are_classes_in_their_order() -> None:
    dataset = Mixture(0, **FAR)
    nearest = torch.cdist(dataset.x, torch.tensor(FAR["means"]).double()).argmin(1)
    assert torch.equal(nearest, labels(dataset))
    assert dataset.encoded_law is not None
    inner = dataset.encoded_law.of_class(2)
    torch.testing.assert_close(dataset.units.decode(inner.means), torch.tensor([[30.0, 0.0]]).double())


@pytest.mark.parametrize("cls", LABELLED)
def test_draws_with_classes_are_the_draws_without(cls) -> None:  # noqa: ANN001
    dataset = cls(0)
    drawn = dataset.draw_labelled(500, generator("cpu", 3, "test"))
    assert drawn is not None
    assert torch.equal(drawn[0], dataset.draw(500, generator("cpu", 3, "test")))
    assert torch.equal(drawn[1].unique(), torch.arange(dataset.classes))
    assert torch.equal(dataset.draw_labelled(len(dataset.x), generator("cpu", 0, "data"))[0], dataset.x)
    assert torch.equal(dataset.draw_labelled(len(dataset.x), generator("cpu", 0, "data"))[1], dataset.y)


def test_a_class_is_a_data_set_with_the_draws_of_the_class() -> None:
    """The draws of a component have its mean and variance, and the component is the exact distribution."""
    dataset, n = Mixture(0, **FAR), 20_000
    for label, (mean, variance) in enumerate(zip(FAR["means"], FAR["variances"], strict=True)):
        own = dataset.of_class(label)
        assert torch.equal(own.x, dataset.x[labels(dataset) == label])
        x = own.draw(n, generator("cpu", 1, "test"))
        assert x is not None and len(x) == n
        assert bool(((x.mean(0) - torch.tensor(mean)).abs() < 4.5 * math.sqrt(variance / n)).all())
        torch.testing.assert_close(x.T.cov(), variance * torch.eye(2).double(), atol=0.05 * variance, rtol=0)
        assert own.law is not None
        torch.testing.assert_close(own.law.means, torch.tensor([mean]).double())
        assert own.units is dataset.units


@pytest.fixture
def table(tmp_path: Path) -> Dataset:
    """Makes 600 points of two classes on a line, with means 0 and 4, and a third class of one point."""
    source = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [300, 300, 1])
    np.savez(tmp_path / "a.npz", x=source.normal(4 * y, 1), y=y)
    return File(0, str(tmp_path / "a.npz"))


def measured_parts(dataset: Dataset) -> tuple[Tensor, Tensor]:
    y = torch.arange(2).repeat_interleave(100)
    return 4.0 * y[:, None] + torch.randn(200, 1, generator=generator("cpu", 7, "test"), dtype=torch.float64), y


def test_points_are_measured_against_the_held_out_points_of_their_class(table: Dataset) -> None:
    x, y = measured_parts(table)
    entry = measure_labelled_points(table, x, y)["w1"]
    assert table.held_out is not None and table.held_out_y is not None
    expected = [w1(x[y == k].T, table.held_out[table.held_out_y == k].T) for k in (0, 1)]
    assert entry["value"] == pytest.approx(float(sum(expected)) / 2)
    assert entry["classes"]["1"]["value"] == pytest.approx(float(expected[1]))
    assert entry["value"] < 3 * entry["floor"]
    swapped = measure_labelled_points(table, x, 1 - y)["w1"]
    assert swapped["value"] == pytest.approx(4, abs=0.3)
    assert measure_points(table, x)["w1"]["value"] < 0.5


def test_a_class_without_unseen_points_is_left_out(table: Dataset) -> None:
    x, y = measured_parts(table)
    x, y = torch.cat([x, x[:5]]), torch.cat([y, torch.full((5,), 2)])
    assert table.held_out_y is not None and 2 not in table.held_out_y
    assert measure_labelled_points(table, x, y)["w1"]["classes"].keys() == {"0", "1"}


def test_draws_of_the_classes_are_near_their_floor_and_those_of_others_far() -> None:
    dataset = Moons(0)
    drawn = dataset.draw_labelled(400, generator("cpu", 5, "test"))
    assert drawn is not None
    x, y = drawn
    good, bad = measure_labelled_points(dataset, x, y), measure_labelled_points(dataset, x, 1 - y)
    for name, entry in good.items():
        assert entry["value"] < 2.5 * entry["floor"], name
        assert bad[name]["value"] > 10 * bad[name]["floor"], name
