"""The files that sampling writes into a run's folder: samples, metrics and figures."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from sdegen import figures, metrics
from sdegen.config.compose import Config
from sdegen.config.options import choice
from sdegen.core.errors import UserError
from sdegen.figures import animations
from sdegen.metrics.points import Metrics
from sdegen.models.classifier import ClassifierModel
from sdegen.runs import events, files, guiding, measures
from sdegen.runs.guiding import Label, Observation, Plan, planned
from sdegen.runs.run import Run
from sdegen.samplers import Samples

log = logging.getLogger("sdegen")

FRAMES = {"vectors": 101, "images": 41}
"""Number of states of the sampling path that are kept for figures."""
KEPT = 2**26
"""Largest number of pixels in the kept states (256 MiB in float32). At least :data:`COLUMNS` states are kept."""
ROWS, COLUMNS = 4, 11
"""Number of images, and number of states of each image, in the figure of the generation of images."""


class Drawn(NamedTuple):
    """Samples ``x`` ``(N, *)`` in the user's units, classes ``y`` ``(N,)`` or None, and the cost of the sampling.

    ``samples`` are the samples of the first class in the network's units, with the path.
    """

    x: Tensor
    y: Tensor | None
    samples: Samples
    nfe: float
    seconds: float


def write(
    run: Run,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    guidance: Config | None = None,
    label: Label = None,
    figures: bool = True,
    animate: bool = False,
    after_training: bool = False,
) -> files.Written:
    """Write samples, metrics and figures into ``samples/<number>-<sampler>/`` in the run's folder.

    ``label`` is the class to steer towards, or ``all`` for ``count`` samples of each class in turn. If ``animate`` is
    true, the figures include an animation. TensorBoard shows the samples as a run, unless ``after_training`` is true.
    """
    # Build the guidance before sampling, so that a mistake costs no time.
    plan, name = planned(run, guidance, label), choice(run.config["sampler"])
    by = "" if guidance is None else f" under {choice(guidance)}"
    each = " of each class" if len(plan.labels) > 1 else ""
    log.info(f"sampling {count}{each} by {name}{by}, {run.weights_used()}")
    drawn = _drawn(run, plan, count, seed, batch_size)
    own = {"step": run.step, "weights": run.weights, "seed": seed, "batch_size": batch_size}
    own |= {group: run.config[group] for group in ("sampler", "network")}
    steered = {} if guidance is None else {"guidance": guidance, "label": label}
    facts: dict[str, Any] = {"nfe": drawn.nfe, "seconds": drawn.seconds, "seed": seed, "step": run.step}
    if drawn.y is not None:
        facts["y"] = drawn.y.numpy()
    if plan.seen is not None:
        facts |= {"measured": guiding.picture(run.units, plan.seen).numpy(), "mean": drawn.x.mean(0)}
        facts["std"] = drawn.x.std(0)
    with files.new_folder(run.folder / "samples", name) as (folder, final):
        files.write_yaml(folder / "config.yaml", {**own, **steered})
        _write_samples(folder, drawn.x, facts)
        found = _judge(run, drawn, plan.seen, folder)
        if found is not None and figures:
            _draw_samples(run, drawn, plan.seen, folder / "figures", animate)
        # The metrics after a training are those of the run itself.
        if not after_training:
            events.write(folder, run.step, {**(found or {}), "evaluations": {"value": drawn.nfe}})
    return files.Written(final, found or {})


def _drawn(run: Run, plan: Plan, count: int, seed: int, batch_size: int) -> Drawn:
    """Returns ``count`` samples of each class of a plan, one class after the other."""
    started = time.perf_counter()
    frames = FRAMES["vectors" if len(run.units.shape) == 1 else "images"]
    if len(run.units.shape) > 1:
        frames = max(COLUMNS, min(frames, KEPT // (min(count, batch_size) * run.units.size)))
    parts = [
        run.generate(
            count, seed=seed, batch_size=batch_size, frames=0 if i else frames, guidance=guidance, first=i * count
        )
        for i, guidance in enumerate(plan.guidance)
    ]
    seconds = time.perf_counter() - started
    x = torch.cat([run.units.decode(part.x).cpu() for part in parts])
    y = None if plan.labels[0] is None else torch.tensor(plan.labels).repeat_interleave(count)
    nfe, acceptance = sum(part.nfe for part in parts) / len(parts), parts[0].acceptance
    evaluations = f"{nfe:.0f}" if nfe == round(nfe) else f"on average {nfe:.1f}"
    accepted = "" if acceptance is None else f", {acceptance:.1%} of the corrector's moves accepted"
    log.info(f"{evaluations} evaluations a sample, {seconds:.1f} s{accepted}")
    return Drawn(x, y, parts[0], nfe, seconds)


def write_accuracy(run: Run, model: ClassifierModel, draw: bool) -> Metrics:
    """Measure the accuracy of a classifier over t. If ``draw`` is true, write a figure into the run's folder."""
    found, curves = measures.accuracy(run.dataset, model, run.device, run.dtype)
    if draw:
        chance = 1 / (run.classes or 1)
        figures.save(figures.accuracy(*curves, chance), run.folder / "figures" / "accuracy.png")
    log.info(metrics.table(found, "held out") if found else f"no metrics: {metrics.unmeasured(run.dataset)}")
    return found


def _write_samples(folder: Path, x: Tensor, facts: dict[str, Any]) -> None:
    """Writes ``samples.npz``, and ``samples.csv`` for points or ``samples.png`` for images."""
    values = x.numpy()
    np.savez(folder / "samples.npz", **{"x": values, **facts})
    if values.ndim == 2:
        names = ",".join(f"x{i + 1}" for i in range(values.shape[1]))
        np.savetxt(folder / "samples.csv", values, delimiter=",", header=names, comments="")
    else:
        low, high = values.min(), values.max()
        imsave(folder / "samples.png", figures.image_grid((x - low) / (high - low)), cmap="gray", vmin=0, vmax=1)


def _judge(run: Run, drawn: Drawn, seen: Observation | None, folder: Path) -> Metrics | None:
    """Write the metrics of samples into a folder. If the data cannot be read, log a warning and return None."""
    try:
        dataset = run.dataset
    except UserError as error:
        log.warning(f"no metrics and no figures: {error}")
        return None
    if seen is not None:
        found = guiding.agreement(run.units, drawn.x, seen)
    else:
        found = measures.measure(dataset, drawn.x, drawn.y, run.folder)
        if len(run.units.shape) == 1:
            off = metrics.score_error(dataset, run.sde, run.score_on_cpu())
            if off is not None:
                found["score_error"] = {"value": off, "floor": 0.0, "train": None, "floor_from": "exact score"}
    files.write_json(folder / "metrics.json", found)
    if found:
        log.info(metrics.table(found))
    elif len(drawn.x) > 1:
        log.info(f"no metrics: {metrics.unmeasured(dataset) or 'no images were held out'}")
    return found


def _draw_samples(run: Run, drawn: Drawn, seen: Observation | None, folder: Path, animate: bool) -> None:
    dataset, x, samples = run.dataset, drawn.x, drawn.samples
    if len(run.units.shape) == 1:
        shown = {"samples": figures.compare(dataset, x), "marginals": figures.marginals(dataset, samples, run.sde)}
        if run.units.shape != (1,):
            shown["trajectories"] = figures.trajectories(dataset, samples, run.sde)
    else:
        low, high = float(dataset.x[:1000].min()), float(dataset.x[:1000].max())
        path = torch.stack([run.units.decode(frame).cpu() for frame in samples.path[:, :ROWS]])
        shown = {"generation": figures.generation(path, samples.times.cpu(), low, high, ROWS, COLUMNS)}
        rounded = metrics.quantized(x, dataset.levels)
        if seen is not None:
            truth = None if seen.truth is None else seen.truth[0]
            shown["posterior"] = figures.posterior(truth, guiding.picture(run.units, seen), x, low, high)
        elif drawn.y is not None:
            shown["classes"] = figures.classes(rounded, drawn.y, low, high)
        else:
            shown["samples"] = figures.compare(dataset, rounded)
    _save(shown, folder)
    if animate:
        animations.save(animations.animation(dataset, samples, run.sde), folder / "generation.gif")


def draw_score(run: Run, folder: Path) -> None:
    """Write figures of the learned or exact score into a folder. For images, write no figures."""
    dataset, sde, score = run.dataset, run.sde, run.score_on_cpu()
    if len(run.units.shape) > 1:
        return
    shown = {"process": figures.process(dataset, sde, score)} if run.units.shape == (1,) else {}
    field = figures.score_field(dataset, sde, score, learned=not run.model.network.exact)
    _save(shown if field is None else {**shown, "score_field": field}, folder)


def _save(shown: Mapping[str, Figure], folder: Path) -> None:
    for name, figure in shown.items():
        figures.save(figure, folder / f"{name}.png")
