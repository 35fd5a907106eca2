"""Figures of points have the names, the units and the labels of the data, and a view that shows them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import ks_2samp, spearmanr
from torch import Tensor

from sdegen import figures
from sdegen.datasets import Affine, Dataset, Description
from sdegen.figures.columns import View, class_colours
from sdegen.figures.corner import farthest, rank_correlations
from sdegen.samplers import Samples
from sdegen.sde import SDE, VE, VP

NAMES = ("age", "price in $", "x^2 & more", "a name that is much too long for an axis")


def drawable(figure: Figure) -> None:
    """Draws a figure; a warning of its layout is an error."""
    figure.draw_without_rendering()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(d: int, count: int = 9) -> Samples:
    return Samples(normal(count, d), 7, normal(8, count, d), torch.linspace(1, 0.01, 8))


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
    dataset = Numbers(2, **options)
    assert figures.marginals(dataset, walk(2), VP()).get_supxlabel() == f"x(t), {unit}"
    axes = figures.trajectories(dataset, walk(2), VP()).axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (f"$x_{{1}}(t)$, {unit}", f"$x_{{2}}(t)$, {unit}")


def test_a_line_names_its_units() -> None:
    samples = Samples(torch.zeros(9, 1), 7, torch.ones(8, 9, 1), torch.linspace(1, 0.01, 8))
    figure = figures.marginals(Numbers(1, standardize=False), samples, VP())
    assert figure.get_supxlabel() == "x(t), in the data's units"


def words(figure: Figure) -> str:
    """Returns the labels of all axes."""
    found = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    return "\n".join([*found, figure.get_supxlabel()])


@pytest.mark.parametrize("d", [1, 2, 4])
def test_figures_name_the_columns_as_the_data_do(d: int) -> None:
    """A dollar sign is text, and a long name is cut."""
    x, columns = normal(60, d), Description(NAMES[:d])
    dataset, bare = (Dataset(x, description=description) for description in (columns, Description()))

    def drawn(dataset: Dataset) -> list[Figure | None]:
        own = [figures.compare(dataset, x), figures.marginals(dataset, walk(d), VP())]
        own.append(figures.interpolation(dataset, normal(3, 5, d)))
        if d > 1:
            own.append(figures.trajectories(dataset, walk(d), VP()))
        if d < 3:
            grid = [torch.linspace(-1, 1, 5, dtype=torch.float64)] * d
            own.append(figures.density(dataset, grid, torch.zeros(5**d, dtype=torch.float64), lambda x: None))
            own.append(figures.score_field(dataset, VP(), lambda x, t: -x))
        return own

    for named, unnamed in zip(drawn(dataset), drawn(bare), strict=True):
        assert named is not None and unnamed is not None
        drawable(named)
        assert "age" in words(named) and "x" in words(unnamed)
        assert "x(t)" not in words(named) and "x_" not in words(named)
        if d > 1:
            assert "2" in words(unnamed) or unnamed.get_supxlabel() == "x(t), standardised"
            assert r"price in \$" in words(named)
    if d == 4:
        assert "a name that is\nmuch too…" in words(figures.compare(dataset, x))


def points(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points of a cloud ``(N, 2)`` and their colours ``(N, 4)``."""
    (drawn,) = axes.collections
    offsets, colours = np.asarray(drawn.get_offsets()), drawn.get_facecolor()
    return offsets, np.broadcast_to(colours, (len(offsets), 4))


def match(axes: Axes, x: Tensor, colours: np.ndarray) -> None:
    """Checks that axes show the points ``x`` ``(N, 2)`` in the colours ``(N, 4)``, in any order."""
    found, expected = np.hstack(points(axes)), np.hstack([x.numpy(), colours])
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize("classes", [3, 20])
@pytest.mark.parametrize("labelled", [True, False])
def test_points_have_the_colour_of_their_class(classes: int, labelled: bool) -> None:
    y = torch.arange(200) % classes
    names = tuple(f"kind {i}" for i in range(classes))
    dataset = Dataset(normal(200, 2), y=y, classes=classes, description=Description(classes=names))
    x, own = normal(120, 2, seed=1) / 9, torch.arange(120) * 7 % classes
    figure = figures.compare(dataset, x, own if labelled else None)
    drawable(figure)
    colours = class_colours(classes)
    assert len(np.unique(colours, axis=0)) == classes
    match(figure.axes[0], dataset.x, colours[y.numpy()])
    grey = np.tile(to_rgba("0.35"), (120, 1))
    match(figure.axes[1], x, colours[own.numpy()] if labelled else grey)
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert legends == (list(names) if classes == 3 else [])


def test_columns_with_names_have_the_same_scale_only_if_they_are_as_long() -> None:
    """Columns with names may have different units, and an equal scale would draw one of them as a strip."""
    for names, length, expected in ((("speed", "angle"), 4, "auto"), (("speed", "angle"), 1.5, 1), ((), 4, 1)):
        x = normal(90, 2).sin() * torch.tensor([length, 1.0])
        dataset = Dataset(x, description=Description(names))
        assert [axes.get_aspect() for axes in figures.compare(dataset, x).axes[:2]] == [expected] * 2


def test_histograms_on_the_line_are_stacked_by_class() -> None:
    y = (normal(500, 1)[:, 0] > 0).long()
    dataset = Dataset(normal(500, 1) + 10 * y[:, None], y=y, classes=2)
    left, _ = figures.compare(dataset, dataset.x[:9], y[:9]).axes
    colours = class_colours(2)
    for label, colour in enumerate(colours):
        bars = [bar for bar in left.patches if np.allclose(bar.get_facecolor(), colour)]
        area = sum(bar.get_width() * bar.get_height() for bar in bars)
        assert area == pytest.approx(float((y == label).double().mean()))


def test_likelihoods_are_in_nats_of_a_point() -> None:
    """As ``points.csv`` and the log have them, whatever the number of dimensions."""
    known, given = normal(400, 1)[:, 0] + 30, normal(300, 1, seed=1)[:, 0] + 33
    (axes,) = figures.likelihoods(known, given, ("held-out points", "given points")).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"held-out points, mean {known.mean():.4g}", f"given points, mean {given.mean():.4g}"]
    assert axes.get_xlabel() == "negative log-likelihood of a point, nats"
    assert 26 < axes.get_xlim()[0] < 31 < axes.get_xlim()[1] < 38


def test_a_corner_shows_every_pair_of_columns() -> None:
    dataset, x = Dataset(normal(50, 4)), normal(50, 4, seed=1)
    figure = figures.compare(dataset, x)
    drawable(figure)
    panels = {(axes.get_subplotspec().rowspan[0], axes.get_subplotspec().colspan[0]): axes for axes in figure.axes}
    assert set(panels) == {(i, j) for i in range(4) for j in range(4)}
    colours = np.repeat([to_rgba(figures.DATA), to_rgba(figures.SAMPLES)], 50, axis=0)
    for (row, column), axes in panels.items():
        if row == column:
            heights = [bar.get_height() for bar in axes.patches[:30]]
            assert sum(heights) == pytest.approx(1)
        elif row > column:
            match(axes, torch.cat([dataset.x, x])[:, [column, row]], colours)
        else:
            exact = [spearmanr(points[:, column], points[:, row]).statistic for points in (dataset.x, x)]
            assert numbers(axes) == pytest.approx(exact, abs=0.005)
            assert [text.get_color() for text in axes.texts] == [figures.DATA, figures.SAMPLES]


def numbers(axes: Axes) -> list[float]:
    """Returns the numbers that are written in a panel."""
    return [float(text.get_text().replace("−", "-")) for text in axes.texts]


def test_rank_correlations_are_those_of_scipy_with_ties_and_a_constant_column() -> None:
    x = np.random.default_rng(0).integers(0, 5, size=(200, 3)).astype(float)
    x[:, 1] += x[:, 0]
    np.testing.assert_allclose(rank_correlations(x), spearmanr(x).statistic, atol=1e-12)
    x[:, 2] = 7
    assert np.isnan(rank_correlations(x)[0, 2])


def test_a_corner_of_classes_has_data_below_and_samples_above() -> None:
    y = torch.arange(50) % 2
    dataset, x = Dataset(normal(50, 3), y=y, classes=2), normal(40, 3, seed=1) / 9
    figure = figures.compare(dataset, x, y[:40])
    drawable(figure)
    colours = class_colours(2)
    for axes in figure.axes:
        row, column = axes.get_subplotspec().rowspan[0], axes.get_subplotspec().colspan[0]
        if row > column:
            match(axes, dataset.x[:, [column, row]], colours[y.numpy()])
            assert numbers(axes) == pytest.approx([spearmanr(dataset.x[:, [column, row]]).statistic], abs=0.005)
        elif row < column:
            match(axes, x[:, [column, row]], colours[y[:40].numpy()])
            assert numbers(axes) == pytest.approx([spearmanr(x[:, [column, row]]).statistic], abs=0.005)


def test_of_many_columns_a_corner_shows_those_that_differ_most() -> None:
    data = normal(400, 12)
    x = normal(300, 12, seed=1) + torch.tensor([0.1 * (7 * i % 12) for i in range(12)])
    distances = [ks_2samp(data[:, i], x[:, i]).statistic for i in range(12)]
    assert farthest(data.numpy(), x.numpy()) == sorted(np.argsort(distances)[-8:])
    figure = figures.compare(Dataset(data), x)
    assert any("8 of 12 columns" in text.get_text() for text in figure.texts)
    assert farthest(data[:, :8].numpy(), x[:, :8].numpy()) == list(range(8))


@pytest.mark.parametrize("bends", [True, False])
def test_a_skewed_column_fills_its_axis(bends: bool) -> None:
    """On the drawn axis the middle half is at least twice as wide as on a linear one; 0 and signs are in view."""
    x = np.random.default_rng(0).lognormal(10, 2, 2000) if bends else np.random.default_rng(0).exponential(size=2000)
    view = View.of(x)
    assert (view.width is not None) == bends
    assert not view.outside(x).any() and view.outside(np.array([view.high + 1, np.nan])).all()
    figure, axes = figures.subplots(3, 2)
    view.set(axes, "x")
    drawable(figure)
    place = axes.transData.transform([[value, 0] for value in (*np.quantile(x, (0.25, 0.75)), *axes.get_xlim())])[:, 0]
    linear = np.diff(np.quantile(x, (0.25, 0.75)))[0] / (view.high - view.low)
    share = (place[1] - place[0]) / (place[3] - place[2])
    assert share > 2 * linear if bends else share == pytest.approx(linear)
    places = axes.transData.transform([[edge, 0] for edge in view.edges(10)])[:, 0]
    np.testing.assert_allclose(np.diff(places), np.diff(places).mean())
    assert 2 <= sum(view.low <= tick <= view.high for tick in axes.get_xticks()) <= 6


def test_one_sample_far_away_does_not_set_the_scale() -> None:
    dataset, x = Dataset(normal(300, 2)), normal(300, 2, seed=1) / 9
    limits = []
    for far in (0.0, 1e9):
        x[0, 0] = far
        figure = figures.compare(dataset, x)
        limits.append(figure.axes[1].get_xlim())
    assert limits[0] == limits[1] and "(1 out of view)" in figure.axes[1].get_title()
    samples = walk(2, 300)
    near = figures.marginals(dataset, samples, VP())
    samples.path[:, 0] = 1e9
    far_off = figures.marginals(dataset, samples, VP())
    drawable(far_off)
    for one, other in zip(near.axes, far_off.axes, strict=True):
        assert other.get_xlim()[1] < 3 * one.get_xlim()[1]
    assert any(axes.get_title() == "1 out of view" for axes in far_off.axes)


@pytest.mark.parametrize("sde", [VP(), VE(sigma_max=50.0)], ids=["VP", "VE"])
def test_the_drawn_flow_of_a_normal_distribution_is_a_line_to_the_origin(sde: SDE) -> None:
    """The flow of N(0, s²) multiplies x by the standard deviation at t, here divided by that at T."""
    variance, linear = 0.25, sde.linear
    assert linear is not None

    def deviation(t: Tensor) -> Tensor:
        return (linear.alpha(t) ** 2 * variance + linear.sigma(t) ** 2).sqrt()

    t = torch.linspace(1, float(sde.eps), 8, dtype=torch.float64)
    start = normal(20, 2) * deviation(t[0])
    samples = Samples(start, 7, start.expand(8, 20, 2), t)
    flow = figures.flow(sde, lambda x, t: -x / deviation(t.double())[..., None] ** 2, samples)
    figure = figures.trajectories(Numbers(2), samples, sde, flow)
    drawable(figure)
    axes = figure.axes[0]
    assert ("sqrt" in axes.get_xlabel()) == isinstance(sde, VE)
    lines = [drawn for drawn in axes.collections if isinstance(drawn, LineCollection)]
    assert len(lines) == 16
    for i, line in enumerate(lines):
        path, times = np.array([segment[1] for segment in line.get_segments()]), torch.tensor(line.get_array())
        scale = torch.hypot(linear.alpha(times), linear.sigma(times)) if isinstance(sde, VE) else torch.ones(1)
        expected = start[i] * (deviation(times) / deviation(t[0]) / scale)[:, None]
        np.testing.assert_allclose(path, expected.numpy(), atol=0.02)
    # The paths of a sampler that solves the flow are not drawn again below those of the flow.
    same = figures.trajectories(Numbers(2), flow, sde, flow).axes[0]
    labels = [len([line for line in one.lines if line.get_label() == "sampler's paths"]) for one in (axes, same)]
    assert labels == [1, 0] and same.get_title("left") == "the sampler follows the flow"


def test_a_flow_that_diverges_leaves_the_sampler_s_paths() -> None:
    for strength, paths in ((1e30, 3), (1.0, 9)):
        flow = figures.flow(VP(), lambda x, t, strength=strength: strength * x, walk(2))
        figure = figures.trajectories(Numbers(2), walk(2), VP(), flow)
        drawable(figure)
        axes = figure.axes[0]
        assert len([drawn for drawn in axes.collections if isinstance(drawn, LineCollection)]) == paths
        assert (axes.get_title("left") == "some paths leave the view") == (paths == 9)
        assert axes.get_xlim()[1] < 10


@pytest.mark.parametrize("d", [2, 3])
def test_a_legend_names_a_class_and_its_condition(d: int) -> None:
    names, y = ("class versicolor, petal_length = 4.5", "all data"), torch.arange(30) % 2
    dataset = Dataset(normal(30, d), y=y, classes=2, description=Description(classes=names))
    figure = figures.compare(dataset, normal(30, d, seed=1), y)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*names]
    drawable(figure)


@pytest.mark.parametrize("d", [1, 2])
def test_interpolations_have_a_colour_for_each_pair(d: int) -> None:
    paths = normal(8, 5, d)
    (axes,) = figures.interpolation(Dataset(normal(50, d)), paths).axes
    colours = [to_rgba(line.get_color()) for line in axes.lines]
    assert len(set(colours)) == 8
    for i, path in enumerate(paths.numpy()):
        own = [line for line, colour in zip(axes.lines, colours, strict=True) if colour == colours[2 * i]]
        whole, ends = (np.stack([line.get_xdata(), line.get_ydata()], 1)[:, -d:] for line in own)
        np.testing.assert_array_equal(whole, path)
        np.testing.assert_array_equal(ends, path[[0, -1]])


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
def test_a_picture_is_the_one_that_matplotlib_cuts(outside: bool) -> None:
    """The picture may be shifted by less than a pixel, unless a part of the figure lies outside of its area."""
    figure, axes = figures.subplots(3, 2)
    axes.fill_between([0, 1], [1, 1], color="black")
    if outside:
        figure.text(1.2, 0.5, "a word")
    expected, before = io.BytesIO(), (figure.dpi, figure.canvas)
    figure.savefig(expected, format="png", dpi=150, bbox_inches="tight")
    with Image.open(expected) as whole, Image.open(io.BytesIO(figures.png(figure))) as cut:
        assert max(abs(a - b) for a, b in zip(whole.size, cut.size, strict=True)) <= (0 if outside else 2)
        ink = [float((255 - np.asarray(image.convert("L")).astype(float)).sum()) for image in (whole, cut)]
    assert ink[1] == pytest.approx(ink[0], rel=0.01)
    assert (figure.dpi, figure.canvas) == before
