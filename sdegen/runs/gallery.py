"""Figures of the samples and of the score of a run, written as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdegen import figures, metrics
from sdegen.datasets import Dataset
from sdegen.figures import animations
from sdegen.figures.images import view
from sdegen.runs import conditions, observations
from sdegen.runs.guiding import Plan, Target
from sdegen.runs.observations import Observation
from sdegen.runs.sampling import on_cpu
from sdegen.runs.steered import Drawn, Steered
from sdegen.samplers import Samples

SHOWN = 6
"""Largest number of samples of a condition in a figure."""
ROWS, COLUMNS = 4, 11
"""Number of images, and number of states of each image, in the figure of the generation of images."""


def draw_samples(run: Steered, drawn: Drawn, plan: Plan, folder: Path, animate: bool) -> None:
    """Write figures of the samples of a plan into a folder; if ``animate`` is true, also an animation."""
    dataset = run.dataset
    if run.units.kind == "vectors":
        # The path is the path of the first target.
        one = not plan.of_data and (drawn.c is None or len(drawn.c.unique(dim=0)) == 1)
        if drawn.c is not None and one:
            dataset = dataset.given(drawn.c[0]) or dataset
        shown = {"samples": figures.compare(dataset, drawn.x, drawn.y)}
        if drawn.y is not None and dataset.y is not None and one:
            dataset = dataset.of_class(int(drawn.y[0]))
        shown |= _paths(run, dataset, drawn, plan.targets[0] if one else None)
    else:
        shown = (_of_signals if run.units.kind == "signals" else _of_images)(run, drawn, plan.seen)
    _save(shown, folder)
    if animate:
        animations.save(animations.animation(dataset, drawn.samples, run.sde), folder / "generation.gif")


def _paths(run: Steered, dataset: Dataset, drawn: Drawn, target: Target | None) -> dict[str, Figure]:
    """Returns the figures of the path of vectors; ``target`` is their target, None if they have several."""
    shown = {"marginals": figures.marginals(dataset, drawn.samples, run.sde)}
    if target is None:
        return shown
    if run.units.shape != (1,):
        flow = _flow(run, target, drawn.samples)
        shown["trajectories"] = figures.trajectories(dataset, drawn.samples, run.sde, flow)
    if drawn.y is not None:
        title = f"class {run.names.label(int(drawn.y[0]))}"
        shown["marginals"].suptitle(title)
        if "trajectories" in shown:
            # The legend lies where the title of the figure would be.
            shown["trajectories"].axes[0].set_title(title)
    return shown


def _flow(run: Steered, target: Target, samples: Samples) -> Samples | None:
    """Returns paths of the flow from the noise of the first samples. Samplers with the same noise share the paths."""
    if target.steers:
        return figures.flow(run.sde, on_cpu(run.at(target).steered_score(), run.device, run.dtype), samples)
    start = samples.path[0, : figures.FLOWS].tolist()
    return run.once(f"flow from {start}", lambda: figures.flow(run.sde, run.score_on_cpu(), samples))


def _by_condition(drawn: Drawn, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor] | None:
    """Returns the first conditions ``(M, *)`` that are images or signals, their points, and samples ``(M, n, *)``.

    Returns None if the conditions are not images or signals.
    """
    if drawn.c is None or drawn.c.ndim < 3:
        return None
    first, count = drawn.c[0], 1
    while drawn.truth is None and count < len(x) and bool((drawn.c[count] == first).all()):
        count += 1
    own = slice(0, ROWS * count, count)
    samples = x[: ROWS * count].unflatten(0, (-1, count))[:, :SHOWN]
    return drawn.c[own], None if drawn.truth is None else drawn.truth[own], samples


def _of_signals(run: Steered, drawn: Drawn, seen: Observation | None) -> dict[str, Figure]:
    shown = {"generation": figures.signal_generation(drawn.samples.path, drawn.samples.times.cpu())}
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        shown["posterior"] = figures.signal_posterior(truth, observations.picture(run.units, seen), drawn.x)
    elif (given := _by_condition(drawn, drawn.x)) is not None:
        shown["conditions"] = figures.signal_conditioned(*given)
    elif drawn.y is not None:
        shown["classes"] = figures.signal_classes(drawn.x, drawn.y, run.names.classes)
    else:
        shown["samples"] = figures.compare(run.dataset, drawn.x)
    return shown


def _of_images(run: Steered, drawn: Drawn, seen: Observation | None) -> dict[str, Figure]:
    dataset, (low, high) = run.dataset, view(run.dataset.x)
    path = torch.stack([run.units.decode(frame).cpu() for frame in drawn.samples.path[:, :ROWS]])
    shown = {"generation": figures.generation(path, drawn.samples.times.cpu(), low, high, ROWS, COLUMNS)}
    rounded = metrics.quantized(drawn.x, dataset.levels)
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        shown["posterior"] = figures.posterior(truth, observations.picture(run.units, seen), drawn.x, low, high)
    elif (given := _by_condition(drawn, rounded)) is not None:
        shown["conditions"] = figures.conditioned(*given, low, high)
    elif drawn.y is not None:
        shown["classes"] = figures.classes(rounded, drawn.y, low, high)
    else:
        shown["samples"] = figures.compare(dataset, rounded)
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
    _save(shown if field is None else {**shown, "score_field": field}, folder)


def _save(shown: Mapping[str, Figure], folder: Path) -> None:
    for name, figure in shown.items():
        figures.save(figure, folder / f"{name}.png")
