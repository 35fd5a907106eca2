"""Figures of samples and of scores, chosen by the kind of data, and animations that a notebook shows."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdegen import figures, metrics
from sdegen.datasets import Dataset
from sdegen.figures import animations
from sdegen.runs import machine
from sdegen.runs.guiding import Observation, picture
from sdegen.samplers import Samples
from sdegen.sde.base import SDE, Score

ROWS, COLUMNS = 4, 11
"""Images, and their states, in the figure of their generation."""


def of_samples(
    dataset: Dataset, sde: SDE, samples: Samples, x: Tensor, y: Tensor | None, seen: Observation | None
) -> Mapping[str, Figure]:
    """Returns the figures of samples by their names.

    The ``samples`` are in the network's units, with their path; ``x`` are all of them in the user's units, ``(N, *)``
    on the CPU, and ``y`` the classes that were asked for, ``(N,)``.
    """
    units = dataset.units
    if len(units.shape) == 1:
        shown = {
            "samples": figures.compare(dataset, x),
            "marginals": figures.marginals(dataset, samples, sde),
        }
        if units.shape != (1,):
            shown["trajectories"] = figures.trajectories(dataset, samples, sde)
        return shown
    rounded = metrics.quantized(x, dataset.levels)
    low, high = float(dataset.x[:1000].min()), float(dataset.x[:1000].max())
    path = torch.stack([units.decode(frame).cpu() for frame in samples.path[:, :ROWS]])
    shown = {"generation": figures.generation(path, samples.times.cpu(), low, high, ROWS, COLUMNS)}
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        return {"posterior": figures.posterior(truth, picture(units, seen), x, low, high), **shown}
    if y is None:
        return {"samples": figures.compare(dataset, rounded), **shown}
    return {"classes": figures.classes(rounded, y, low, high), **shown}


def of_score(dataset: Dataset, sde: SDE, score: Score, *, learned: bool) -> Mapping[str, Figure]:
    """Returns the figures of a score on the CPU, learned or exact, by their names; none for images."""
    if len(dataset.units.shape) > 1:
        return {}
    shown = {}
    if dataset.units.shape == (1,):
        shown["process"] = figures.process(dataset, sde, score)
    field = figures.score_field(dataset, sde, score, learned=learned)
    return shown if field is None else {**shown, "score_field": field}


class Animation:
    """A sequence of pictures, which a notebook shows as a GIF."""

    def __init__(self, frames: list[Image.Image]) -> None:
        self.frames = frames

    def save(self, path: str | Path) -> Path:
        """Write the animation as a GIF."""
        return animations.save(self.frames, Path(path))

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "animation.gif").read_bytes()
        return f'<img alt="animation" src="data:image/gif;base64,{base64.b64encode(content).decode()}">'


def show_inline() -> None:
    """Let a notebook show figures: IPython does so by itself only after pyplot is imported."""
    shell = machine.notebook_shell()
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, figures.png)
