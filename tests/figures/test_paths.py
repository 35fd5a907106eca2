"""Figures and animations of the process agree with the theory."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.stats import norm
from torch import Tensor

from sdegen import figures
from sdegen.datasets import Dataset, Mixture
from sdegen.figures import animations
from sdegen.samplers import Samples
from sdegen.sde import VP, DoubleWell
from sdegen.sde.mixture import Marginals

SDE = VP()
LINE = Mixture(0, standardize=False)
PLANE = Mixture(0, (0.5, 0.5), ((-1.0, 0.0), (1.0, 0.5)), (0.25, 0.5), size=500, standardize=False)
NORMAL = Mixture(0, (1.0,), ((0.0, 0.0),), (1.0,), size=500, standardize=False)
COUNT = 400
OFF = 0.3


def exact(dataset: Mixture) -> Marginals:
    return Marginals(dataset.law, SDE)


def kernel(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns α and σ of VP, for which β grows from 0.1 to 20."""
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    return np.exp(-0.5 * integral), np.sqrt(-np.expm1(-integral))


def component(mean: float, variance: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    alpha, sigma = kernel(t)
    return alpha * mean, np.sqrt(alpha**2 * variance + sigma**2)


def cdf(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Returns the distribution function of x(t) for the paper's mixture."""
    return 0.5 * (norm.cdf(x, *component(-3, 0.25, t)) + norm.cdf(x, *component(3, 1, t)))


def density(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    return 0.5 * (norm.pdf(x, *component(-3, 0.25, t)) + norm.pdf(x, *component(3, 1, t)))


def variance(t: np.ndarray) -> np.ndarray:
    alpha, sigma = kernel(t)
    return alpha**2 * (9 + 0.625) + sigma**2


def drawable(figure: Figure) -> None:
    """Draws a figure. A warning about the layout is an error."""
    figure.draw_without_rendering()


def paths(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Returns the times ``(F,)`` and the states ``(F, B)`` of the paths in a panel."""
    return np.asarray(axes.lines[0].get_xdata()), np.stack([line.get_ydata() for line in axes.lines], axis=1)


@pytest.fixture(scope="module")
def panels() -> dict[str, Axes]:
    figure = figures.process(LINE, SDE, exact(LINE), count=COUNT)
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


@pytest.mark.parametrize(("panel", "ends"), [("forward SDE", (SDE.eps, 1)), ("reverse SDE", (1, SDE.eps))])
def test_paths_have_the_exact_law_at_every_time(panels: dict[str, Axes], panel: str, ends: tuple) -> None:
    t, x = paths(panels[panel])
    assert (t[0], t[-1]) == pytest.approx(ends, abs=1e-12)
    assert panels[panel].get_xlim() == pytest.approx(ends)
    for i in np.linspace(0, len(t) - 1, 7).round().astype(int):
        ranks = np.sort(cdf(x[i], t[i]))
        # By chance, the Kolmogorov–Smirnov statistic exceeds this bound once in 5000 times.
        assert np.abs(ranks - (np.arange(COUNT) + 0.5) / COUNT).max() < 2.15 / COUNT**0.5
        assert x[i].var() == pytest.approx(variance(t[i]), rel=0.2)
    # Paths of an SDE are rough: their quadratic variation is ∫ β dt.
    roughness = np.square(np.diff(x, axis=0)).sum(0).mean()
    assert roughness == pytest.approx(0.1 + 0.5 * 19.9, rel=0.15)


def test_paths_of_the_flow_keep_their_order_and_their_quantiles(panels: dict[str, Axes]) -> None:
    t, x = paths(panels["flow ODE"])
    assert panels["flow ODE"].get_xlim() == pytest.approx((1, SDE.eps))
    assert (np.diff(x, axis=1) > 0).all()
    ranks = cdf(x, t[:, None])
    np.testing.assert_allclose(ranks, np.broadcast_to(ranks[0], ranks.shape), atol=2e-4)
    # The initial states are evenly spaced in probability, and are the same as for the reverse SDE.
    assert np.abs(ranks[0] - (np.arange(COUNT) + 0.5) / COUNT).max() < 0.02
    np.testing.assert_array_equal(x[0], paths(panels["reverse SDE"])[1][0])


def test_the_density_lies_under_the_paths(panels: dict[str, Axes]) -> None:
    for axes in panels.values():
        t, x, values = cells(axes)
        truth = density(x[:, None], t)
        np.testing.assert_allclose(values, truth / truth.max(0), atol=1e-6)


def test_paths_are_those_of_their_seed_and_bad_scores_stay_in_view() -> None:
    drawn = [figures.process(LINE, SDE, exact(LINE), seed=seed, steps=50) for seed in (1, 1, 2)]
    x = [paths(figure.axes[1])[1] for figure in drawn]
    np.testing.assert_array_equal(x[0], x[1])
    assert np.abs(x[0] - x[2]).max() > 0.1
    assert len(drawn[0].axes[0].lines) == 12
    few = Mixture(0, size=5)
    few.draw = lambda n, source: None  # type: ignore[method-assign]
    thrown = figures.process(few, SDE, lambda x, t: 50 * x**3, steps=50)
    drawable(thrown)
    assert 0 < thrown.axes[1].get_ylim()[1] < 20


def cells(axes: Axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the horizontal and vertical centres of the cells of a picture, and the values of the cells."""
    image = axes.images[0]
    left, right, low, high = image.get_extent()
    values = np.asarray(image.get_array())
    assert image.origin == "lower"
    rows, columns = values.shape
    middle = [(np.arange(n) + 0.5) / n for n in (columns, rows)]
    return left + middle[0] * (right - left), low + middle[1] * (high - low), values


def off_by(dataset: Mixture, shift: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a score in float32 with the error ``shift / σ``."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        sigma = SDE.sigma(t.double())
        return (exact(dataset)(x.double(), t) + shift / (sigma[:, None] if t.ndim else sigma)).float()

    return score


def test_field_on_the_line_is_the_derivative_of_the_log_density_and_its_error_what_was_added() -> None:
    figure = figures.score_field(LINE, SDE, off_by(LINE, torch.tensor([OFF])))
    assert figure is not None
    drawable(figure)
    learned, truth, error = (axes for axes in figure.axes if axes.get_title())
    assert [axes.get_title() for axes in (learned, truth, error)] == ["learned", "exact", "learned − exact"]
    t, x, values = cells(truth)
    assert (t[0], t[-1]) == pytest.approx((SDE.eps, 1))
    felt = density(x[:, None], t) > 1e-6
    h = 1e-5
    slope = (np.log(density(x[:, None] + h, t)) - np.log(density(x[:, None] - h, t))) / (2 * h)
    np.testing.assert_allclose(values[felt], (kernel(t)[1] * slope)[felt], atol=1e-4)
    np.testing.assert_allclose(cells(error)[2], OFF, atol=1e-5)
    np.testing.assert_allclose(cells(learned)[2] - values, OFF, atol=1e-5)
    assert learned.images[0].get_clim() == truth.images[0].get_clim() != error.images[0].get_clim()
    assert all(sum(axes.images[0].get_clim()) == 0 for axes in (learned, truth, error))


def covered(area: ContourSet, point: tuple[float, float]) -> bool:
    """Returns True if a point is inside the areas and not in a hole."""
    outlines = [outline for path in area.get_paths() for outline in path.to_polygons()]
    return sum(Outline(outline).contains_point(point) for outline in outlines) % 2 == 1


def test_what_is_not_visited_is_grey() -> None:
    figure = figures.score_field(LINE, SDE, exact(LINE), learned=False)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["exact"]
    (grey,) = figure.axes[0].collections
    t, x, _ = cells(figure.axes[0])
    share = density(x[:, None], t)
    share /= share.max(0)
    found = {True: 0, False: 0}
    for j in range(2, len(t) - 2, 20):
        for i in range(2, len(x) - 2, 5):
            if not 0.5e-3 < share[i, j] < 2e-3:
                hidden = covered(grey, (t[j], x[i]))
                assert hidden == (share[i, j] < 1e-3), (t[j], x[i])
                found[hidden] += 1
    assert min(found.values()) > 20


@pytest.mark.parametrize("shift", [(0.0, 0.0), (OFF, 0.0), (0.6 * OFF, -0.8 * OFF)])
def test_field_in_the_plane_shows_the_size_of_the_error(shift: tuple) -> None:
    figure = figures.score_field(PLANE, SDE, off_by(PLANE, torch.tensor(shift)))
    assert figure is not None
    drawable(figure)
    named = [axes for axes in figure.axes if axes.get_title()]
    times = np.array([float(axes.get_title().removeprefix("t = ")) for axes in named])
    alpha, sigma = kernel(times)
    # The ratio σ/α falls from 10 to 0.1 in equal factors. The titles give the times with two digits.
    np.testing.assert_allclose(sigma / alpha, np.geomspace(10, 0.1, 4), rtol=0.15)
    for axes in named:
        np.testing.assert_allclose(cells(axes)[2], np.hypot(*shift), atol=2e-5)


def test_arrows_in_the_plane_follow_the_score_and_longest_are_cut() -> None:
    """The score of standard normal data is −x at every t. The longest arrows are shortened."""
    figure = figures.score_field(NORMAL, SDE, exact(NORMAL), learned=False)
    assert figure is not None
    drawable(figure)
    for axes in (axes for axes in figure.axes if axes.get_title()):
        (arrows,) = axes.collections
        arrow, point = np.stack([arrows.U, arrows.V], 1), arrows.XY
        length, radius = np.linalg.norm(arrow, axis=1), np.linalg.norm(point, axis=1)
        np.testing.assert_allclose(arrow / length[:, None], -point / radius[:, None], atol=1e-5)
        sigma = (length / radius)[radius < 1].mean()
        # The squared radius is exponential, so 99 % of the points have a radius below sqrt(2 ln 100).
        np.testing.assert_allclose(length, sigma * np.minimum(radius, length.max() / sigma), rtol=1e-4)
        assert length.max() / sigma == pytest.approx((2 * np.log(100)) ** 0.5, rel=0.1)
        x, y, values = cells(axes)
        np.testing.assert_allclose(values, bell(x, y) / bell(x, y).max(), atol=1e-5)


def test_what_is_not_visited_in_the_plane_is_grey() -> None:
    """A standard normal density in the plane falls to a thousandth of its maximum at the radius sqrt(2 ln 1000)."""
    figure = figures.score_field(NORMAL, SDE, exact(NORMAL))
    assert figure is not None
    for axes in (axes for axes in figure.axes if axes.get_title()):
        grey, reach = axes.collections[0], axes.get_xlim()[1]
        assert reach > 3.9 / 2**0.5
        for radius, hidden in ((0.1, False), (3.6, False), (3.9, True)):
            for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                point = (radius * x / 2**0.5, radius * y / 2**0.5)
                assert covered(grey, point) == hidden


def bell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return norm.pdf(x) * norm.pdf(y)[:, None]


def test_field_turns_with_the_axes() -> None:
    """The score has an error where the first coordinate is above 1, and the figure draws the error at these points."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        off = torch.zeros_like(x)
        off[:, 0] = (x[:, 0] > 1).to(x) / SDE.sigma(t).to(x)
        return exact(PLANE)(x, t) + off

    figure = figures.score_field(PLANE, SDE, score)
    assert figure is not None
    x, _, values = cells(figure.axes[0])
    np.testing.assert_allclose(values, np.broadcast_to(x > 1, values.shape), atol=1e-4)


def test_field_without_a_kernel_or_law_says_so_and_of_three_coordinates_there_is_none() -> None:
    well = DoubleWell(beta_min=1, beta_max=9)
    figure = figures.score_field(Mixture(0, size=300), well, lambda x, t: -x)
    assert figure is not None
    drawable(figure)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["learned"]
    t, x, values = cells(figure.axes[0])
    np.testing.assert_allclose(values, -np.sqrt(1 + 8 * t) * x[:, None], atol=1e-6)
    assert figure.axes[1].get_ylabel() == "g(t) · score"
    space = Mixture(0, (1.0,), ((0.0, 0.0, 0.0),), (1.0,))
    assert figures.score_field(space, SDE, exact(space)) is None
    flat = figures.score_field(PLANE, well, lambda x, t: -x)
    assert flat is not None
    drawable(flat)
    assert not any(axes.images for axes in flat.axes)


class Pictures(Dataset):
    """Data set of grey images of bytes."""


def walk(start: Tensor, end: Tensor, frames: int, last: Tensor) -> Samples:
    """Returns samples ``last``, whose paths are straight from ``start`` to ``end``."""
    share = torch.linspace(0, 1, frames).view(-1, *[1] * start.ndim)
    return Samples(last, 1.0, start + share * (end - start), torch.linspace(1, 1e-5, frames, dtype=torch.float64))


def written(dataset: Dataset, samples: Samples, path: Path) -> list[np.ndarray]:
    """Saves the animation, checks its size and durations, and returns its frames, each ``(h, w, 3)``."""
    target = animations.save(animations.animation(dataset, samples, SDE), path / "figures" / "generation.gif")
    assert target.stat().st_size <= 400_000
    gif, found, durations = Image.open(BytesIO(target.read_bytes())), [], []
    assert gif.info["loop"] == 0
    for i in range(gif.n_frames):  # type: ignore[attr-defined]
        gif.seek(i)
        found.append(np.asarray(gif.convert("RGB")).astype(float))
        durations.append(gif.info["duration"])
    assert durations[-1] == 1500
    assert len(set(durations[:-1])) == 1
    assert durations[0] >= 50
    assert 1500 <= sum(durations[:-1]) <= 2600
    return found


def middle(frame: np.ndarray) -> np.ndarray:
    """Returns the mean position of the pixels in the colour of samples, from the left and from the top."""
    rows, columns = np.nonzero(frame[..., 0] - frame[..., 2] > 100)
    assert len(rows)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("frames", [20, 300])
def test_points_move_from_noise_to_the_samples(frames: int, tmp_path: Path) -> None:
    """The points move from left to right. The last frame shows the samples, which lie above the first points."""
    left, right = torch.tensor([-2.0, -1.0]).expand(50, 2), torch.tensor([2.0, -1.0]).expand(50, 2)
    samples = walk(left, right, frames, torch.tensor([-2.0, 1.0]).expand(50, 2))
    found = written(PLANE, samples, tmp_path)
    assert len(found) == 20 if frames == 20 else 38 <= len(found) <= 45
    places = np.stack([middle(frame) for frame in found])
    assert places[0, 0] == pytest.approx(places[-1, 0], abs=1)
    # The axes have equal scales, and y points upwards.
    span = places[0, 1] - places[-1, 1]
    assert span > 50
    assert np.ptp(places[:-1, 1]) < 1
    assert (np.diff(places[:-1, 0]) > 0).all()
    if frames == 300:
        # More frames show small t, where the data take shape: about a third of them have t < 0.2.
        share = (places[:-1, 0] > places[0, 0] + 0.8 * 2 * span).mean()
        assert 0.28 < share < 0.4
    else:
        np.testing.assert_allclose(places[:-1, 0], places[0, 0] + 2 * span * np.arange(19) / 19, atol=2.5)
        assert all((frame[2, 2] == 255).all() for frame in found)


def test_histogram_on_the_line_is_where_the_points_are(tmp_path: Path) -> None:
    ends = [torch.full((200, 1), value) for value in (-2.0, 2.0)]
    samples = walk(*ends, 15, torch.full((200, 1), 4.0))
    found = written(LINE, samples, tmp_path)
    assert len(found) == 15
    places = np.array([middle(frame)[0] for frame in found])
    step = (places[13] - places[0]) / 13
    assert step > 0
    np.testing.assert_allclose(places[:-1], places[0] + step * np.arange(14), atol=5.5)
    np.testing.assert_allclose(places[-1], places[0] + 1.5 * 14 * step, atol=5.5)


@pytest.mark.parametrize("frames", [20, 41])
def test_images_start_as_noise_and_end_as_the_samples(frames: int, tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    data = (torch.rand(60, 1, 12, 12, generator=source) > 0.5).to(torch.uint8) * 255
    dataset = Pictures(data, levels=256)
    noise = torch.randn(60, 1, 12, 12, generator=source)
    x = dataset.units.encode(data).float()
    # All states are noise, which is hardest to compress.
    samples = walk(noise, noise, frames, x)._replace(path=torch.randn(frames, 60, 1, 12, 12, generator=source))
    found = written(dataset, samples, tmp_path)
    assert len(found) == 20 if frames == 20 else 15 <= len(found) <= 20
    for frame, images in ((found[0], samples.path[0]), (found[-1], x)):
        grid = frame[20:]
        side, scale = 6, grid.shape[1] // (6 * 13 - 1)
        assert grid.shape[:2] == (scale * (6 * 13 - 1),) * 2
        for i in range(side**2):
            top, left = scale * 13 * (i // side), scale * 13 * (i % side)
            block = grid[top : top + 12 * scale, left : left + 12 * scale].reshape(12, scale, 12, scale, 3)
            pixel = block.mean((1, 3))
            # Each pixel is drawn as a square of one colour.
            assert np.ptp(block, axis=(1, 3)).max() == 0
            expected = dataset.units.decode(images[i : i + 1])[0, 0].clamp(0, 255).numpy()
            np.testing.assert_allclose(pixel, np.broadcast_to(expected[..., None], pixel.shape), atol=255 / 16)
    # The time is written above the images.
    assert (found[0][:20] < 100).any() and (found[0][:20] != found[-1][:20]).any()


def test_colours_are_those_of_all_frames(tmp_path: Path) -> None:
    colours = [(255, 255, 255), (200, 40, 10), (0, 114, 178)]
    frames = [Image.new("RGB", (30, 20), colour) for colour in colours]
    gif = Image.open(BytesIO(animations.save(frames, tmp_path / "x.gif").read_bytes()))
    for i, colour in enumerate(colours):
        gif.seek(i)
        assert gif.convert("RGB").getpixel((5, 5)) == pytest.approx(colour, abs=4)


def test_view_follows_noise_that_is_far_wider_than_the_data() -> None:
    clean = LINE.x[:200].float()
    wide = walk(30 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0)), clean, 9, clean)
    narrow = wide._replace(path=wide.path / 30)
    for samples, moves in ((wide, True), (narrow, False)):
        states = samples.path.double()
        limits = animations._limits(LINE, states)
        assert all(limit >= float(state.abs().quantile(0.99)) for limit, state in zip(limits, states, strict=True))
        assert (limits[0] > 3 * limits[-1]) == moves
        assert moves or len(set(limits)) == 1


def test_samples_out_of_view_have_no_density_there() -> None:
    """If all samples are out of view, the histogram has no area. If half are in view, half of the area is left."""
    dataset = Mixture(0, size=50)
    for share, far in ((0.0, [1e6, -1e6]), (0.5, [0.0, 1e6])):
        _, axes = figures.compare(dataset, torch.tensor(far, dtype=torch.float64)[:, None]).axes
        area = sum(bar.get_height() * bar.get_width() for bar in axes.patches)
        assert area == pytest.approx(share)
