"""Figures of signals have the right curves in the right panels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdegen import figures
from sdegen.datasets import Dataset
from sdegen.figures.animations import animation
from sdegen.figures.densities import interpolation
from sdegen.samplers import Samples
from sdegen.sde import VP


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def curves(axes: Axes) -> dict[str, np.ndarray]:
    """Returns the labelled curves, and the edges of the band."""
    found = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    for band in axes.collections:
        corners = band.get_paths()[0].vertices
        for name, pick in (("low", np.min), ("high", np.max)):
            found[name] = np.array(
                [pick(corners[corners[:, 0] == at, 1]) for at in range(int(corners[:, 0].max()) + 1)]
            )
    return found


def rows(figure: Figure) -> list[Axes]:
    figure.draw_without_rendering()
    return [axes for axes in figure.axes if axes.get_visible()]


@pytest.mark.parametrize("channels", [1, 3])
def test_data_and_samples_have_their_mean_and_band_in_each_channel(channels: int) -> None:
    data, x = random(300, channels, 20) + 5, random(40, channels, 20, seed=1)
    panels = rows(figures.compare(Dataset(data, held_out=data), x))
    assert len(panels) == 2 * channels
    for row in range(channels):
        for axes, signals in zip(panels[2 * row : 2 * row + 2], (data, x), strict=True):
            found, own = curves(axes), signals[:, row].numpy()
            np.testing.assert_allclose(found["mean"], own.mean(0))
            np.testing.assert_allclose(found["low"], np.quantile(own, 0.05, axis=0))
            np.testing.assert_allclose(found["high"], np.quantile(own, 0.95, axis=0))
            np.testing.assert_allclose(found["signals"], own[0])
    assert [panels[i].get_title() for i in (0, 1)] == ["data, 300 signals", "samples, 40 signals"]


def test_generation_has_the_state_of_a_time_under_it() -> None:
    path, times = random(9, 4, 2, 16), torch.linspace(1, 1e-5, 9)
    panels = rows(figures.signal_generation(path, times, rows=3))
    assert len(panels) == 15
    assert [axes.get_title() for axes in panels[:5]] == [
        "t = 1",
        "t = 0.75",
        "t = 0.5",
        "t = 0.25",
        "t = $10^{-5}$",
    ]
    for i, axes in enumerate(panels):
        expected = path[2 * (i % 5), i // 5].numpy()
        np.testing.assert_allclose([curves(axes)[f"channel {c}"] for c in (1, 2)], expected)


def test_classes_have_panels_with_their_names() -> None:
    x, y = random(30, 2, 8), torch.arange(30) % 3
    panels = rows(figures.signal_classes(x, y, ("ant", "bee", "cat")))
    for label, (axes, name) in enumerate(zip(panels, ("ant", "bee", "cat"), strict=True)):
        assert axes.get_title() == name
        np.testing.assert_allclose(curves(axes)["mean"], x[y == label, 0].mean(0))


def test_posterior_has_truth_and_measured_steps() -> None:
    truth, x = random(2, 12), random(50, 2, 12, seed=1)
    measured = truth.clone()
    measured[:, 6:] = torch.nan
    for row, axes in enumerate(rows(figures.signal_posterior(truth, measured, x))):
        found = curves(axes)
        np.testing.assert_array_equal(found["measured"], measured[row])
        np.testing.assert_array_equal(found["truth"], truth[row])
        np.testing.assert_allclose(found["mean"], x[:, row].mean(0))
    (first, *_) = rows(figures.signal_posterior(None, torch.zeros(7), x))
    assert not {"truth", "measured"} & curves(first).keys()


def test_interpolations_go_from_end_to_end() -> None:
    data, paths = random(20, 2, 10), random(4, 5, 2, 10)
    panels = rows(interpolation(Dataset(data), paths))
    assert len(panels) == 4
    for axes, path in zip(panels, paths, strict=True):
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines], path[:, 0])


def test_animation_ends_with_the_samples() -> None:
    """The frames differ, and the last one is drawn from the samples, not from the last state of the path."""
    data, path = random(50, 1, 10), random(6, 8, 1, 10)
    times = torch.linspace(1, 1e-5, 6)

    def frames(x: Tensor) -> list[bytes]:
        return [frame.tobytes() for frame in animation(Dataset(data), Samples(x, 1, path, times), VP())]

    first, other = frames(random(8, 1, 10, seed=2)), frames(random(8, 1, 10, seed=3))
    assert len(set(first)) == 6
    assert first[:-1] == other[:-1]
    assert first[-1] != other[-1]
