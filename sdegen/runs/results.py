"""The files that sampling leaves in a run's folder: samples, metrics and figures."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor

from sdegen import figures, metrics
from sdegen.config.compose import Config
from sdegen.config.options import choice
from sdegen.core.errors import UserError
from sdegen.figures import animations
from sdegen.guidance.classes import Guidance
from sdegen.metrics.points import Metrics
from sdegen.models.classifier import ClassifierModel
from sdegen.runs import drawing, files, guiding, measures
from sdegen.runs.guiding import Observation, agreement, picture
from sdegen.runs.run import Run
from sdegen.samplers import Samples

log = logging.getLogger("sdegen")

FRAMES = {"vectors": 101, "images": 41}
"""States of the path kept for figures."""
KEPT = 2**26
"""Numbers, 256 MiB of float32, above which fewer states of images are kept, but enough for their figure."""

Label = int | Literal["all"] | None


class Plan(NamedTuple):
    """Plan of a sampling: the classes, one after the other (None for no class), each with its guidance."""

    labels: list[int | None]
    guidance: list[Guidance | None]
    seen: Observation | None


class Drawn(NamedTuple):
    """Samples in the user's units ``(N, *)``, their classes ``(N,)`` or None, the path, and their cost."""

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
) -> files.Written:
    """Sample, measure and draw into ``samples/<number>-<sampler>/`` of the run's folder.

    The label is the class to steer towards, or ``all`` for ``count`` samples of one class after the other. An animation
    joins the figures if ``animate`` is true.
    """
    # Built before anything is drawn, so that a mistake costs nothing.
    plan, name = planned(run, guidance, label), choice(run.config["sampler"])
    by = "" if guidance is None else f" under {choice(guidance)}"
    each = " of each class" if len(plan.labels) > 1 else ""
    log.info(f"sampling {count}{each} by {name}{by}, {run.weights_used()}")
    drawn = generate(run, plan, count, seed, batch_size)
    log.info(_cost(drawn))
    own = {"step": run.step, "weights": run.weights, "seed": seed, "batch_size": batch_size}
    own |= {group: run.config[group] for group in ("sampler", "network")}
    steered = {} if guidance is None else {"guidance": guidance, "label": label}
    with files.new_folder(run.folder / "samples", name) as (folder, final):
        files.write_yaml(folder / "config.yaml", {**own, **steered})
        _write_samples(folder, drawn.x, _facts(run, drawn, plan.seen, seed))
        found = _judge(run, drawn, plan.seen, folder)
        if found is not None and figures:
            _draw(run, drawn, plan.seen, folder, animate)
    return files.Written(final, found or {})


def planned(run: Run, guidance: Config | None, label: Label) -> Plan:
    """Returns the plan of a sampling; raises UserError if the guidance or the label do not suit the run."""
    guiding.check_label(run, guidance, label)
    if guidance is None:
        return Plan([None], [None], None)
    seen = guiding.observation(run, guidance)
    observed = None if seen is None else seen.y
    labels: list[int | None] = [*range(run.classes or 0)] if label == "all" else [label]
    return Plan(labels, [guiding.build(run, guidance, one, observed) for one in labels], seen)


def generate(run: Run, plan: Plan, count: int, seed: int, batch_size: int) -> Drawn:
    """Returns ``count`` samples of each class of a plan, one class after the other."""
    started = time.perf_counter()
    frames = FRAMES["vectors" if len(run.units.shape) == 1 else "images"]
    if len(run.units.shape) > 1:
        frames = max(drawing.COLUMNS, min(frames, KEPT // (min(count, batch_size) * run.units.size)))
    parts = [
        run.generate(
            count, seed=seed, batch_size=batch_size, frames=0 if i else frames, guidance=guidance, first=i * count
        )
        for i, guidance in enumerate(plan.guidance)
    ]
    seconds = time.perf_counter() - started
    x = torch.cat([run.units.decode(part.x).cpu() for part in parts])
    y = None if plan.labels[0] is None else torch.tensor(plan.labels).repeat_interleave(count)
    return Drawn(x, y, parts[0], sum(part.nfe for part in parts) / len(parts), seconds)


def write_accuracy(run: Run, model: ClassifierModel, draw: bool) -> Metrics:
    """Measure a classifier of noisy data over time, and draw the curves into the run's folder if that is asked for."""
    found, curves = measures.accuracy(run.dataset, model, run.device, run.dtype)
    if draw:
        chance = 1 / (run.classes or 1)
        figures.save(figures.accuracy(*curves, chance), run.folder / "figures" / "accuracy.png")
    log.info(metrics.table(found, "held out") if found else f"no metrics: {metrics.unmeasured(run.dataset)}")
    return found


def _cost(drawn: Drawn) -> str:
    """Returns the cost of samples in words."""
    nfe = f"{drawn.nfe:.0f}" if drawn.nfe == round(drawn.nfe) else f"on average {drawn.nfe:.1f}"
    acceptance = drawn.samples.acceptance
    accepted = "" if acceptance is None else f", {acceptance:.1%} of the corrector's moves accepted"
    return f"{nfe} evaluations a sample, {drawn.seconds:.1f} s{accepted}"


def _facts(run: Run, drawn: Drawn, seen: Observation | None, seed: int) -> dict[str, Any]:
    """Returns the arrays and numbers of ``samples.npz`` beside the samples."""
    facts: dict[str, Any] = {"nfe": drawn.nfe, "seconds": drawn.seconds, "seed": seed, "step": run.step}
    if drawn.y is not None:
        facts["y"] = drawn.y.numpy()
    if seen is not None:
        facts |= {"measured": picture(run.units, seen).numpy(), "mean": drawn.x.mean(0), "std": drawn.x.std(0)}
    return facts


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
    """Measure samples into a folder; log a warning and return None if the data to compare with are gone."""
    try:
        dataset = run.dataset
    except UserError as error:
        log.warning(f"no metrics and no figures: {error}")
        return None
    found = measured(run, drawn) if seen is None else agreement(run.units, drawn.x, seen)
    files.write_json(folder / "metrics.json", found)
    if found:
        log.info(metrics.table(found))
    elif len(drawn.x) > 1:
        log.info(f"no metrics: {metrics.unmeasured(dataset) or 'no images were held out'}")
    return found


def _draw(run: Run, drawn: Drawn, seen: Observation | None, folder: Path, animate: bool) -> None:
    """Draw samples into a folder."""
    for name, figure in drawing.of_samples(run.dataset, run.sde, drawn.samples, drawn.x, drawn.y, seen).items():
        figures.save(figure, folder / "figures" / f"{name}.png")
    if animate:
        frames = animations.animation(run.dataset, drawn.samples, run.sde)
        animations.save(frames, folder / "figures" / "generation.gif")


def measured(run: Run, drawn: Drawn) -> Metrics:
    """Returns the metrics of samples; for points, also the error of the score if the law is known."""
    found = measures.measure(run.dataset, drawn.x, drawn.y, run.folder)
    if len(run.units.shape) > 1:
        return found
    off = metrics.score_error(run.dataset, run.sde, run.score_on_cpu())
    if off is not None:
        found["score_error"] = {"value": off, "floor": 0.0, "train": None, "floor_from": "exact score"}
    return found
