"""Animations of the reverse process, from noise to data: a GIF that loops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.figures.points import SAMPLES, STYLE, heat, image_grid, shown, spread
from sdegen.samplers import Samples
from sdegen.sde.base import SDE

FRAMES = (45, 30, 20, 10)
"""Of the first, fewer where the file would be too large: noise does not compress."""
MOVING, LAST = 2200, 1500
"""Milliseconds for which the process moves, at least 50 for each frame, and for which the last frame stands."""
BYTES = 400_000
"""What a GIF may take."""
COLOURS = (32, 16)
POINTS = 1000
SIDE, PIXELS = 6, 120
"""At most so many images in a row, of at most so many pixels together; each image at least once."""
WIDTH, ENLARGED = 320, 180
"""Of the picture of points, and of that of images at least, in pixels."""
BAND = 20
"""Height of the line that tells the time above images, in pixels."""


def animation(dataset: Dataset, samples: Samples, sde: SDE) -> list[Image.Image]:
    """Pictures of the samples on their way, the last of them of the samples themselves.

    Points are shown in the plane, over the data, or as a histogram on the line, over the density p_t, both in the
    network's units; of images there is a grid, each enlarged.

    Args:
        dataset: the data.
        samples: with their path.
        sde: the forward process.
    """
    times = samples.times.cpu().double()
    chosen = spread(sde, times, FRAMES[0]) if len(times) > FRAMES[0] else list(range(len(times)))
    images = len(dataset.units.shape) > 1
    states = samples.path[chosen, : SIDE**2 if images else POINTS].detach().cpu().double()
    # With a last, noiseless step the samples are not the state at eps.
    states[-1] = samples.x[: states.shape[1]].detach().cpu().double()
    times = times[chosen]
    if images:
        return list(_images(dataset, states, times))
    with matplotlib.rc_context({**STYLE, "figure.dpi": 100}):
        drawn = _line(dataset, states, times, sde) if states.shape[2] == 1 else _plane(dataset, states, times)
        return list(drawn)


def save(frames: list[Image.Image], path: Path) -> Path:
    """Write pictures as a GIF of at most :data:`BYTES`, or else of the fewest frames and colours to choose from."""
    for count, colours in itertools.product(FRAMES, COLOURS):
        kept = torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().int().tolist()
        content = _gif([frames[i] for i in kept], colours)
        if len(content) <= BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _gif(frames: list[Image.Image], colours: int) -> bytes:
    # One palette for all, or the data behind would flicker; of the first, the middle and the last frame. Of the ways to
    # choose it, this one keeps white white, and colours that few pixels have.
    sheet = np.concatenate([np.asarray(frames[i]) for i in (0, len(frames) // 2, -1)])
    palette = Image.fromarray(sheet).quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = max(50, MOVING // len(frames) // 10 * 10)
    durations = [each] * (len(flat) - 1) + [LAST]
    buffer = BytesIO()
    flat[0].save(buffer, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def _plane(dataset: Dataset, states: Tensor, times: Tensor) -> Iterator[Image.Image]:
    """Points over the data."""
    clean, limits = dataset.units.encode(dataset.x)[:POINTS], _limits(dataset, states)
    figure = Figure(figsize=(WIDTH / 100, WIDTH / 100), layout="constrained")
    axes = figure.subplots()
    axes.scatter(clean[:, 0].numpy(), clean[:, 1].numpy(), s=4, color="0.8", linewidths=0)
    dots = axes.scatter([], [], s=4, color=SAMPLES, linewidths=0)
    axes.set(aspect="equal", xlabel=f"$x_1(t)${shown(states.shape[2], ', ')}", ylabel="$x_2(t)$")
    for x, t, limit in zip(states, times, limits, strict=True):
        dots.set_offsets(x[:, :2].numpy())
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), title=_told(t))
        yield _rendered(figure)


def _line(dataset: Dataset, states: Tensor, times: Tensor, sde: SDE) -> Iterator[Image.Image]:
    """A histogram over the density p_t, which is exact where the law is known."""
    limits, bins = _limits(dataset, states), 60
    figure = Figure(figsize=(WIDTH / 100, 0.75 * WIDTH / 100), layout="constrained")
    axes = figure.subplots()
    rows = []
    for x, t, limit in zip(states, times, limits, strict=True):
        grid = torch.linspace(-limit, limit, 241, dtype=torch.float64)
        density = heat(dataset, sde, t[None], grid)[:, 0]
        # In units of the view, in which it stays of the same height where the view widens with the noise.
        density /= density.mean()
        counts, edges = np.histogram(x.numpy(), bins, (-limit, limit))
        rows.append((counts * bins / len(x), edges, density, grid))
    bars = axes.stairs(*rows[0][:2], fill=True, color=SAMPLES, alpha=0.8)
    (curve,) = axes.plot([], [], color="black", linewidth=1)
    axes.set(ylim=(0, 1.1 * max(max(row[0].max(), row[2].max()) for row in rows)), yticks=[], xlabel="x(t)")
    axes.spines["left"].set_visible(False)
    for (counts, edges, density, grid), t, limit in zip(rows, times, limits, strict=True):
        bars.set_data(counts, edges)
        curve.set_data(grid.numpy(), density)
        axes.set(xlim=(-limit, limit), title=_told(t))
        yield _rendered(figure)


def _images(dataset: Dataset, states: Tensor, times: Tensor) -> Iterator[Image.Image]:
    """A grid of images, each pixel a square, with the time above it."""
    low, high = float(dataset.x[:1000].min()), float(dataset.x[:1000].max())
    side = min(SIDE, max(1, PIXELS // max(dataset.units.shape[1:])), int(len(states[0]) ** 0.5))
    font = ImageFont.load_default(12)
    for x, t in zip(states[:, : side**2], times, strict=True):
        picture = image_grid(((dataset.units.decode(x) - low) / (high - low)).clamp(0, 1), side)
        image = Image.fromarray((255 * picture).round().astype(np.uint8)).convert("RGB")
        scale = max(1, -(-ENLARGED // max(image.size)))
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        canvas = Image.new("RGB", (image.width, image.height + BAND), "white")
        canvas.paste(image, (0, BAND))
        middle = (canvas.width / 2, BAND / 2)
        ImageDraw.Draw(canvas).text(middle, _told(t), fill="black", font=font, anchor="mm")
        yield canvas


def _rendered(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Where everything stands is worked out once, so that nothing moves but what should.
    figure.set_layout_engine("none")
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _limits(dataset: Dataset, states: Tensor) -> list[float]:
    """How far the view reaches in each frame: the same in all, but where the noise is far wider than the data."""
    own = [float(state[:, :2].abs().quantile(0.998)) for state in states]
    data = float(dataset.units.encode(dataset.x[:POINTS]).abs().quantile(0.999))
    widest = max(own[0], data)
    return [1.1 * (widest if widest < 3 * data else max(limit, data)) for limit in own]


def _told(t: Tensor) -> str:
    return f"t = {float(t):.2f}"
