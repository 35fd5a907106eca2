"""Figures of images have the right pixels next to the right labels."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdegen import figures
from sdegen.datasets import Dataset
from sdegen.figures.images import UNKNOWN
from sdegen.runs import results

BLUE = np.array(matplotlib.colors.to_rgb(UNKNOWN))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picture(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def at(axes: Axes, x: float, y: float, height: int, width: int) -> np.ndarray:
    """Returns the part of the picture with the centre ``(x, y)`` and the given size."""
    top, left = round(y - (height - 1) / 2), round(x - (width - 1) / 2)
    assert (top + (height - 1) / 2, left + (width - 1) / 2) == (y, x)
    return picture(axes)[top : top + height, left : left + width]


def drawable(figure: Figure) -> None:
    """Draws a figure. A warning about the layout is an error."""
    figure.draw_without_rendering()


@pytest.mark.parametrize("channels", [1, 3])
def test_generation_has_the_state_of_a_time_under_it(channels: int) -> None:
    path, times = uniform(5, 3, channels, 4, 6) * 10 - 5, torch.tensor([1, 0.75, 0.5, 0.03, 1e-5])
    figure = figures.generation(path, times, -1, 1, rows=2)
    drawable(figure)
    (axes,) = figure.axes
    ticks, names = axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["1", "0.75", "0.5", "0.03", "$10^{-5}$"]
    assert axes.xaxis.get_ticks_position() == "top"
    for i, x in enumerate(ticks):
        for row in range(2):
            expected = ((path[i, row] + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
            found = at(axes, x, row * 5 + 1.5, 4, 6)
            np.testing.assert_allclose(found if channels == 3 else found[..., None], expected)
    assert picture(axes).shape[:2] == (9, 5 * 7 - 1)


def test_generation_of_many_frames_shows_some_and_both_ends() -> None:
    path = torch.linspace(0, 1, 101).view(-1, 1, 1, 1, 1).expand(-1, 2, 1, 2, 2)
    axes = figures.generation(path, torch.linspace(1, 0, 101), 0, 1).axes[0]
    assert len(axes.get_xticks()) == 11
    for x, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        np.testing.assert_allclose(at(axes, x, 0.5, 2, 2), 1 - float(label.get_text()), atol=1e-6)
    assert [label.get_text() for label in axes.get_xticklabels()][::10] == ["1", "0"]


def test_classes_have_their_label_at_their_row() -> None:
    """Images of class c have the brightness c/10 and differ in one pixel.

    The order is random, and class 9 has two images.
    """
    y = torch.tensor([7, 2, 2, 9, 7, 2, 9, 7, 2, 9])[torch.randperm(10, generator=torch.Generator().manual_seed(3))]
    y[(y == 9).nonzero()[0]] = 2
    x = y.view(-1, 1, 1, 1).expand(-1, 1, 4, 3).clone().to(torch.uint8)
    x[:, 0, 0, 0] = torch.arange(10)
    figure = figures.classes(x, y, 0, 10, columns=3)
    drawable(figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "7", "9"]
    for row, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        members = torch.nonzero(y == int(label.get_text())).flatten()[:3].tolist()
        for column in range(3):
            found = at(axes, column * 4 + 1, row, 4, 3)
            if column < len(members):
                np.testing.assert_allclose(found[1:], int(label.get_text()) / 10)
                assert found[0, 0] == pytest.approx(members[column] / 10)
            else:
                assert (found == 1).all()
    assert picture(axes).shape == (3 * 5 - 1, 3 * 4 - 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_posterior_shows_mean_deviation_and_what_was_not_measured(channels: int) -> None:
    truth, x = uniform(channels, 4, 6), uniform(50, channels, 4, 6, seed=1)
    measured = truth.clone()
    measured[:, 1:3] = float("nan")
    figure = figures.posterior(truth, measured, x, 0, 2, samples=2)
    drawable(figure)
    named = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(named) == ["truth", "measured", "mean", "deviation", "sample 1", "sample 2"]

    def same(axes: Axes, image: Tensor) -> None:
        expected = (image / 2).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(picture(axes), expected if channels == 3 else expected[..., 0])
        assert axes.images[0].get_clim() == (0, 1)

    same(named["truth"], truth)
    same(named["mean"], x.mean(0))
    same(named["sample 2"], x[1])
    np.testing.assert_allclose(picture(named["deviation"]), np.sqrt((x.numpy().std(0) ** 2).mean(0)))
    assert named["deviation"].images[0].get_clim()[0] == 0
    drawn = named["measured"].images[0]
    shown = picture(named["measured"]) if channels == 3 else drawn.to_rgba(drawn.get_array())[..., :3]
    np.testing.assert_allclose(shown[1:3], np.broadcast_to(BLUE, (2, 6, 3)), atol=1e-6)
    assert (np.abs(shown[[0, 3]] - BLUE).max(-1) > 0.01).all()
    # The seventh axes are the colour bar of the deviation.
    assert len(figure.axes) == 7


def test_posterior_without_truth_and_of_fewer_pixels() -> None:
    x, measured = uniform(5, 1, 8, 8), uniform(1, 2, 2, seed=1)
    panels = figures.posterior(None, measured, x, 0, 1).axes
    assert panels[0].get_title() == "measured"
    np.testing.assert_allclose(picture(panels[0]), measured[0])


def test_accuracy_draws_every_curve_and_chance() -> None:
    times = torch.linspace(0, 1, 11)
    curves = {"a": 1 - 0.9 * times, "b": 1 - 0.9 * times**2}
    figure = figures.accuracy(times, curves, chance=0.1)
    drawable(figure)
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["a", "b", "chance, 0.1"]
    for name, curve in curves.items():
        np.testing.assert_allclose(lines[name].get_xydata(), torch.stack([times, curve], 1))
    assert set(np.asarray(lines["chance, 0.1"].get_ydata()).tolist()) == {0.1}
    # The line styles differ, so that a reader can tell the lines apart without colours.
    assert len({line.get_linestyle() for line in axes.lines}) == 3


def test_steering_draws_each_measure_with_its_own_floor() -> None:
    scales = [0, 0.5, 1, 4]
    curves = {"agreement": [0.1, 0.8, 0.9, 1.0], "spread": [4.0, 3.0, 2.0, 1.0]}
    figure = figures.steering(scales, curves, {"agreement": 0.99, "spread": 3.2})
    drawable(figure)
    for axes, (name, values), floor in zip(figure.axes, curves.items(), (0.99, 3.2), strict=True):
        assert axes.get_ylabel() == name
        np.testing.assert_allclose(axes.lines[0].get_xydata(), np.stack([scales, values], 1))
        assert set(np.asarray(axes.lines[1].get_ydata()).tolist()) == {floor}
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1", "4"]


@pytest.mark.parametrize("channels", [1, 3])
def test_compare_draws_bytes_and_samples_on_one_scale(channels: int) -> None:
    """The first and the last image of the data are shown, and 62 images between them."""
    data = (uniform(70, channels, 3, 5) * 255).to(torch.uint8)
    data[0, :, 0, 0], data[0, :, 0, 1] = 0, 255
    x = data.double().flip(0) + 300 * (torch.arange(70) == 69).view(-1, 1, 1, 1)
    figure = figures.compare(Dataset(data), x)
    drawable(figure)
    shown = data[[round(69 * i / 63) for i in range(64)]]
    for axes, images in zip(figure.axes, (shown, x), strict=True):
        for row, column in ((0, 0), (0, 7), (7, 7), (3, 4)):
            expected = (images[8 * row + column].double() / 255).clamp(0, 1).permute(1, 2, 0).numpy()
            found = at(axes, column * 6 + 2, row * 4 + 1, 3, 5)
            np.testing.assert_allclose(found if channels == 3 else found[..., None], expected)


def test_a_sample_that_exploded_does_not_set_the_scale_of_the_deviation() -> None:
    x = uniform(20, 1, 6, 5) * 16
    broken = x.clone()
    broken[3] = 1e6 * uniform(1, 6, 5, seed=1)
    figure = figures.posterior(None, x[0], broken, 0, 16)
    drawable(figure)
    others = np.delete(x.numpy(), 3, axis=0)[:, 0]
    by_title = {axes.get_title(): axes for axes in figure.axes}
    np.testing.assert_allclose(picture(by_title["deviation"]), others.std(0))
    np.testing.assert_allclose(picture(by_title["mean"]), others.mean(0) / 16)
    assert by_title["deviation"].images[0].get_clim()[1] == pytest.approx(others.std(0).max())
    assert "without 1 of 20 samples" in figure.get_suptitle()
    assert figures.posterior(None, x[0], x, 0, 16).get_suptitle() == ""


def test_text_around_a_posterior_leaves_the_images_their_size() -> None:
    """All images have the same size and the same top, also with a title above and a scale below them."""
    x = uniform(20, 1, 6, 6) * 16
    broken = torch.cat([x, 1e6 * x[:1]])
    for samples in (x, broken):
        figure = figures.posterior(x[0], x[0], samples, 0, 16)
        drawable(figure)
        *panels, _ = (axes.get_window_extent() for axes in figure.axes)
        assert [(one.width, one.y1) for one in panels] == [pytest.approx((panels[0].width, panels[0].y1), abs=1)] * 8
        assert panels[0].width > 0.9 * figure.bbox.width / len(panels)


def test_samples_that_diverged_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    data = Dataset(uniform(30, 1, 6, 5) * 16)
    x = uniform(20, 1, 6, 5, seed=1) * 16
    assert results._diverged(data, x)["diverged"]["value"] == 0 and not caplog.text
    x[3, 0, 2, 2], x[7] = 60.0, -1e6
    assert results._diverged(data, x)["diverged"]["value"] == 0.1
    assert "2 of 20 samples diverged" in caplog.text
    assert results._diverged(data, 1e9 + x)["diverged"]["value"] == 1
