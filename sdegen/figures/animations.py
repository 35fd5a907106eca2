"""Animations of the reverse process from noise to data, as GIFs that loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.figures.columns import name
from sdegen.figures.images import image_grid, scaled, view
from sdegen.figures.points import heat, spread
from sdegen.figures.style import SAMPLES, STYLE, shown, subplots
from sdegen.samplers import Samples
from sdegen.sde.base import SDE

FRAMES, IMAGE_FRAMES, COLOURS = 45, 20, 16
"""Largest number of frames for points and for images (fewer, since noisy images hardly compress); number of colours."""
PLAIN = 2048
"""Largest number of colours of drawings and grey images; colour pictures have more, and get 256 in a GIF."""
MOVING, LAST = 2200, 1500
"""Durations of the motion and of the last frame, in milliseconds. Each frame of the motion takes at least 50 ms."""
POINTS = 1000
"""Largest number of points that are drawn."""
SIGNALS = 5
"""Number of signals that are drawn."""
SIDE, PIXELS = 6, 120
"""Largest number of images in a row, and of data pixels in a row. A row has at least one image."""
WIDTH, ENLARGED = 320, 180
"""Width of a frame of points, and lower bound on the longer side of a frame of images, in pixels."""
BAND = 20
"""Height of the band above images that shows the time, in pixels."""


def animation(dataset: Dataset, samples: Samples, sde: SDE) -> list[Image.Image]:
    """Draws the path of samples from noise to data; the last frame shows the samples themselves.

    Points are drawn in the network's units. In two or more dimensions, they are drawn on top of the data. In one
    dimension, a histogram is drawn with the density p_t. Of signals, the first channel is drawn in front of the band of
    the data. Images are drawn as an enlarged grid.

    Args:
        dataset: the data.
        samples: samples with the recorded path.
        sde: the forward process.
    """
    times = samples.times.cpu().double()
    kind = dataset.units.kind
    most = IMAGE_FRAMES if kind == "images" else FRAMES
    chosen = spread(sde, times, most) if len(times) > most else list(range(len(times)))
    states = samples.path[chosen, : {"images": SIDE**2, "signals": SIGNALS}.get(kind, POINTS)].detach().cpu().double()
    # After a last, noiseless step the samples differ from the state at eps.
    states[-1] = samples.x[: states.shape[1]].detach().cpu().double()
    times = times[chosen]
    if kind == "images":
        return list(_images(dataset, states, times))
    with matplotlib.rc_context({**STYLE, "figure.dpi": 100}):
        if kind == "signals":
            return list(_signals(dataset, states[:, :, 0], times))
        drawn = _line(dataset, states, times, sde) if states.shape[2] == 1 else _plane(dataset, states, times)
        return list(drawn)


def save(frames: list[Image.Image], path: Path) -> Path:
    """Writes frames as a GIF that loops."""
    # All frames share one palette: otherwise the background would flicker. MAXCOVERAGE keeps white exactly white, and
    # keeps colours that few pixels have.
    sheet = np.concatenate([np.asarray(frames[i]) for i in (0, len(frames) // 2, -1)])
    if len(np.unique(sheet.reshape(-1, 3), axis=0)) > PLAIN:
        # Colour pictures have too many colours for the small palette of drawings.
        palette = Image.fromarray(sheet).quantize(256, Image.Quantize.MEDIANCUT)
        flat = [frame.quantize(palette=palette) for frame in frames]
    else:
        palette = Image.fromarray(sheet).quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = max(50, MOVING // len(frames) // 10 * 10)
    durations = [each] * (len(flat) - 1) + [LAST]
    path.parent.mkdir(parents=True, exist_ok=True)
    flat[0].save(path, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False)
    return path


def _plane(dataset: Dataset, states: Tensor, times: Tensor) -> Iterator[Image.Image]:
    """Draws the points of each frame on top of the data."""
    clean, limits = dataset.units.encode(dataset.x)[:POINTS], _limits(dataset, states)
    figure, axes = subplots(WIDTH / 100, WIDTH / 100)
    axes.scatter(clean[:, 0].numpy(), clean[:, 1].numpy(), s=4, color="0.8", linewidths=0)
    dots = axes.scatter([], [], s=4, color=SAMPLES, linewidths=0)
    axes.set(aspect="equal", xlabel=f"{name(dataset, 0, True)}{shown(states.shape[2], ', ')}")
    axes.set_ylabel(name(dataset, 1, True))
    for x, t, limit in zip(states, times, limits, strict=True):
        dots.set_offsets(x[:, :2].numpy())
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), title=_time_label(t))
        yield _rendered(figure)


def _line(dataset: Dataset, states: Tensor, times: Tensor, sde: SDE) -> Iterator[Image.Image]:
    """Draws a histogram with the density p_t. The density is exact if the distribution of the data is known."""
    limits, bins = _limits(dataset, states), 60
    figure, axes = subplots(WIDTH / 100, 0.75 * WIDTH / 100)
    rows = []
    for x, t, limit in zip(states, times, limits, strict=True):
        grid = torch.linspace(-limit, limit, 241, dtype=torch.float64)
        density = heat(dataset, sde, t[None], grid)[:, 0]
        # Divide by the mean, so that the height of the curve stays the same when the view widens with the noise.
        density /= density.mean()
        counts, edges = np.histogram(x.numpy(), bins, (-limit, limit))
        rows.append((counts * bins / len(x), edges, density, grid))
    bars = axes.stairs(*rows[0][:2], fill=True, color=SAMPLES, alpha=0.8)
    (curve,) = axes.plot([], [], color="black", linewidth=1)
    axes.set(
        ylim=(0, 1.1 * max(max(row[0].max(), row[2].max()) for row in rows)), yticks=[], xlabel=name(dataset, 0, True)
    )
    axes.spines["left"].set_visible(False)
    for (counts, edges, density, grid), t, limit in zip(rows, times, limits, strict=True):
        bars.set_data(counts, edges)
        curve.set_data(grid.numpy(), density)
        axes.set(xlim=(-limit, limit), title=_time_label(t))
        yield _rendered(figure)


def _signals(dataset: Dataset, states: Tensor, times: Tensor) -> Iterator[Image.Image]:
    """Draws signals ``(F, B, L)``, the first channel in the network's units, in front of the band of the data."""
    clean = dataset.units.encode(dataset.x[:: -(-len(dataset.x) // POINTS)])[:, 0]
    low, high = clean.quantile(0.05, 0), clean.quantile(0.95, 0)
    reach, most = float(clean.abs().max()), [float(state.abs().max()) for state in states]
    figure, axes = subplots(WIDTH / 100, 0.75 * WIDTH / 100)
    axes.fill_between(np.arange(len(low)), low.numpy(), high.numpy(), color="0.85", linewidth=0)
    lines = [axes.plot(signal.numpy(), color=SAMPLES, linewidth=0.8)[0] for signal in states[0]]
    channels = dataset.units.shape[0]
    axes.set_xlabel(f"step{f', channel 1 of {channels}' if channels > 1 else ''}")
    for state, t, far in zip(states, times, most, strict=True):
        for line, signal in zip(lines, state, strict=True):
            line.set_ydata(signal.numpy())
        # The view is constant unless the noise is far wider than the data.
        limit = 1.1 * (max(reach, most[0]) if most[0] < 3 * reach else max(reach, far))
        axes.set(ylim=(-limit, limit), title=_time_label(t))
        yield _rendered(figure)


def _images(dataset: Dataset, states: Tensor, times: Tensor) -> Iterator[Image.Image]:
    """Draws a grid of images, and the time above the grid. Each data pixel becomes a square."""
    low, high = view(dataset.x)
    side = min(SIDE, max(1, PIXELS // max(dataset.units.shape[1:])), int(len(states[0]) ** 0.5))
    font = ImageFont.load_default(12)
    for x, t in zip(states[:, : side**2], times, strict=True):
        picture = image_grid(scaled(dataset.units.decode(x), low, high), side)
        image = Image.fromarray((255 * picture).round().astype(np.uint8)).convert("RGB")
        scale = max(1, -(-ENLARGED // max(image.size)))
        image = ImageOps.scale(image, scale, Image.Resampling.NEAREST)
        canvas = ImageOps.expand(image, (0, BAND, 0, 0), "white")
        middle = (canvas.width / 2, BAND / 2)
        ImageDraw.Draw(canvas).text(middle, _time_label(t), fill="black", font=font, anchor="mm")
        yield canvas


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # The layout is computed once, so that the axes do not move between frames.
    figure.set_layout_engine("none")
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _limits(dataset: Dataset, states: Tensor) -> list[float]:
    """Returns half the width of the view in each frame; it is constant unless the noise is far wider than the data."""
    own = [float(state[:, :2].abs().quantile(0.998)) for state in states]
    data = float(dataset.units.encode(dataset.x[:POINTS]).abs().quantile(0.999))
    widest = max(own[0], data)
    return [1.1 * (widest if widest < 3 * data else max(limit, data)) for limit in own]


def _time_label(t: Tensor) -> str:
    return f"t = {float(t):.2f}"
