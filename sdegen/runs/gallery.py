"""Figures of the samples and the score of a run. Each figure of samples names the class or condition that they have."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdegen import figures, metrics
from sdegen.datasets import Dataset
from sdegen.figures import animations
from sdegen.figures.columns import NAMED
from sdegen.figures.images import view
from sdegen.figures.style import plain
from sdegen.runs import conditions, observations
from sdegen.runs.guiding import Target
from sdegen.runs.observations import Observation
from sdegen.runs.sampling import on_cpu
from sdegen.runs.steered import Drawn, Steered
from sdegen.samplers import Samples
from sdegen.sde.scores import of_rows

SHOWN = 6
"""Largest number of samples of a condition in a figure, and of numbers of a condition in a title."""
ROWS, COLUMNS = 4, 11
"""Number of images, and number of states of each image, in the figure of the generation of images."""


class Beside(NamedTuple):
    """The data that a figure shows beside samples.

    Attributes:
        dataset: data set of these points.
        y: classes of the samples in this data set, ``(N,)``; None if they have no classes.
        title: words for what the samples are given; empty if they are given nothing, or if a legend says it.
    """

    dataset: Dataset
    y: Tensor | None
    title: str


def draw_samples(run: Steered, drawn: Drawn, seen: Observation | None, folder: Path, animate: bool) -> None:
    """Write figures of samples into a folder. ``seen`` is the measurement that they agree with, or None."""
    # The path is the path of the first target.
    dataset, samples, (beside, path) = run.dataset, drawn.samples, _beside(run, drawn, seen)
    if run.units.kind == "vectors":
        shown = {"samples": figures.compare(beside.dataset, drawn.x, beside.y, beside.title)}
        shown["marginals"] = figures.marginals(path.dataset, samples, run.sde, path.title)
        if run.units.shape != (1,):
            flow = _flow(run, drawn.targets[0], samples)
            shown["trajectories"] = figures.trajectories(path.dataset, samples, run.sde, flow, path.title)
    else:
        shown = (_signal_figures if run.units.kind == "signals" else _image_figures)(run, drawn, seen, beside.title)
        figures.entitle(shown["generation"], path.title)
    save(shown, folder)
    if animate:
        whole = path.dataset if run.units.kind == "vectors" else dataset
        animations.save(animations.animation(whole, samples, run.sde), folder / "generation.gif")


def _beside(run: Steered, drawn: Drawn, seen: Observation | None) -> tuple[Beside, Beside]:
    """Returns the data beside all samples, and the data beside the samples of the first target."""
    dataset, targets = run.dataset, drawn.targets
    if drawn.truth is not None:
        named = " and ".join(["class"] * (drawn.y is not None) + ["condition"] * (drawn.c is not None))
        whole = Beside(dataset, drawn.y, f"each sample has the {named} of a point of the data")
        return whole, whole
    if seen is not None:
        whole = Beside(dataset, None, f"samples given the measurement{_all(run)}")
        return whole, whole
    first = _beside_target(run, targets[0])
    if len(targets) == 1:
        return first._replace(y=drawn.y), first
    path = first._replace(title=f"the first of {len(targets)}: {first.title}")
    if drawn.c is None:
        return Beside(dataset, drawn.y, _scale(targets[0]).removeprefix(", ")), path
    if run.units.kind != "vectors":
        return Beside(dataset, None, f"samples given {len(targets)} conditions, beside all data"), path
    return _beside_conditions(run, targets, len(drawn.x)), path


def _beside_target(run: Steered, target: Target) -> Beside:
    """Returns the data of the class, exact draws given the condition if they are known, or else all data."""
    dataset = run.dataset
    if target.label is None and target.condition is None:
        return Beside(dataset, None, "")
    title, whole = f"{'given ' if target.condition is not None else ''}{_in_words(run, target)}", _all(run)
    if target.label is not None and dataset.y is not None and bool((dataset.y == target.label).any()):
        dataset, whole = dataset.of_class(target.label), ""
    if target.condition is not None:
        exact = None if dataset.y is not None else dataset.given(target.condition)
        dataset, whole = (run.dataset, _all(run)) if exact is None else (exact, ", beside exact draws")
    return Beside(dataset, None, f"{title}{_scale(target)}{whole}")


def _scale(target: Target) -> str:
    """Returns the guidance scale and its interval as words of a title; no words for the scale 1."""
    scale = None if target.guidance is None else target.guidance.scale
    if scale is None or scale.scale == 1:
        return ""
    times = "" if scale.interval is None else " for t from {:g} to {:g}".format(*scale.interval)
    return f", guidance scale {scale.scale:g}{times}"


def _all(run: Steered) -> str:
    """Returns the end of the title of a figure that shows all data; figures of images and signals show no data."""
    return ", beside all data" if run.units.kind == "vectors" else ""


def _beside_conditions(run: Steered, targets: Sequence[Target], count: int) -> Beside:
    """Returns exact draws given each condition if they are known, or else all data, with a colour for each condition.

    The classes of the result are the conditions, of which each has as many of the ``count`` samples, and all data.
    """
    own, names, n = copy.copy(run.dataset), [_in_words(run, target) for target in targets], count // len(targets)
    exact = [None if own.y is not None or t.condition is None else own.given(t.condition) for t in targets]
    known = [part.x[:n] for part in exact if part is not None]
    if len(known) == len(targets):
        own.x, own.y = torch.cat(known), torch.arange(len(targets)).repeat_interleave(torch.tensor([*map(len, known)]))
    else:
        own.y = torch.full((len(own.x),), len(targets))
        names.append("all data")
    own.law = own.c = own.conditions = None
    own.classes, own.description = len(names), own.description._replace(classes=tuple(names))
    title = f"samples given {len(targets)} conditions, with a colour for each" if len(names) > NAMED else ""
    return Beside(own, torch.arange(len(targets)).repeat_interleave(n), title)


def _in_words(run: Steered, target: Target) -> str:
    """Returns the class and the condition of a target for a title, such as ``class oak, girth = 5``."""
    words = [] if target.label is None else [f"class {run.names.label(target.label)}"]
    if target.condition is not None and target.condition.ndim > 1:
        words.append("the condition")
    elif target.condition is not None:
        numbers = enumerate(target.condition.tolist())
        words += [f"{run.names.condition(i)} = {value:.3g}" for i, value in numbers if i < SHOWN]
        words += ["…"] * (len(target.condition) > SHOWN)
    return plain(", ".join(words))


def _flow(run: Steered, target: Target, samples: Samples) -> Samples | None:
    """Returns paths of the flow from the noise of the first samples. Samplers with the same noise share the paths."""
    if target.steers:
        first = torch.arange(min(figures.FLOWS, samples.path.shape[1]))
        score = of_rows(run.at(target).steered_score(), first)
        return figures.flow(run.sde, on_cpu(score, run.device, run.dtype), samples)
    start = samples.path[0, : figures.FLOWS].tolist()
    return run.once(f"flow from {start}", lambda: figures.flow(run.sde, run.score_on_cpu(), samples))


def _by_condition(drawn: Drawn, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor] | None:
    """Returns the first conditions ``(M, *)`` that are images or signals, their points, and samples ``(M, n, *)``.

    Returns None if the conditions are not images or signals.
    """
    if drawn.c is None or drawn.c.ndim < 3:
        return None
    count = 1 if drawn.truth is not None else len(x) // len(drawn.targets)
    own = slice(0, ROWS * count, count)
    samples = x[: ROWS * count].unflatten(0, (-1, count))[:, :SHOWN]
    return drawn.c[own], None if drawn.truth is None else drawn.truth[own], samples


def _image_figures(run: Steered, drawn: Drawn, seen: Observation | None, title: str) -> dict[str, Figure]:
    dataset, samples = run.dataset, drawn.samples
    low, high = view(dataset.x)
    path = torch.stack([run.units.decode(frame).cpu() for frame in samples.path[:, :ROWS]])
    shown = {"generation": figures.generation(path, samples.times.cpu(), low, high, ROWS, COLUMNS)}
    rounded = metrics.quantized(drawn.x, dataset.levels)
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        shown["posterior"] = figures.posterior(truth, observations.picture(run.units, seen), drawn.x, low, high)
        return shown
    if (given := _by_condition(drawn, rounded)) is not None:
        shown["conditions"] = figures.conditioned(*given, low, high)
        return shown
    if drawn.y is not None:
        shown["classes"] = figures.classes(rounded, drawn.y, low, high)
    if drawn.y is None or drawn.truth is not None:
        shown["samples"] = figures.compare(dataset, rounded, title=title)
    return shown


def _signal_figures(run: Steered, drawn: Drawn, seen: Observation | None, title: str) -> dict[str, Figure]:
    shown = {"generation": figures.signal_generation(drawn.samples.path, drawn.samples.times.cpu())}
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        shown["posterior"] = figures.signal_posterior(truth, observations.picture(run.units, seen), drawn.x)
        return shown
    if (given := _by_condition(drawn, drawn.x)) is not None:
        shown["conditions"] = figures.signal_conditioned(*given)
        return shown
    if drawn.y is not None:
        shown["classes"] = figures.signal_classes(drawn.x, drawn.y, run.names.classes)
    if drawn.y is None or drawn.truth is not None:
        shown["samples"] = figures.compare(run.dataset, drawn.x, title=title)
    return shown


def draw_score(run: Steered, folder: Path) -> None:
    """Write figures of the learned or exact score into a folder.

    For images, signals and scores that need a condition, write no figures.
    """
    if run.units.kind != "vectors" or conditions.needs_one(run):
        return
    dataset, sde, score = run.dataset, run.sde, run.score_on_cpu()
    shown = {"process": figures.process(dataset, sde, score)} if run.units.shape == (1,) else {}
    field = figures.score_field(dataset, sde, score, learned=not run.model.network.exact)
    save(shown if field is None else {**shown, "score_field": field}, folder)


def save(shown: Mapping[str, Figure], folder: Path) -> None:
    """Write figures into a folder, by their names."""
    for name, figure in shown.items():
        figures.save(figure, folder / f"{name}.png")
