"""The files that sampling writes into a run's folder: samples, metrics and figures."""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.image import imsave
from torch import Tensor

from sdegen import figures, metrics
from sdegen.config.compose import Config
from sdegen.config.options import choice
from sdegen.core import processes
from sdegen.core.errors import UserError
from sdegen.core.progress import announced
from sdegen.datasets import Dataset, Description
from sdegen.figures.images import diverged, view
from sdegen.metrics.points import Metrics
from sdegen.models.likelihood import Likelihood
from sdegen.runs import conditions, events, files, gallery, likelihoods, measures, observations
from sdegen.runs.conditions import Asked
from sdegen.runs.gallery import COLUMNS
from sdegen.runs.guiding import Label, Plan, planned
from sdegen.runs.observations import Observation
from sdegen.runs.steered import Drawn, Steered

log = logging.getLogger("sdegen")

FRAMES = {"vectors": 101, "signals": 41, "images": 41}
"""Number of states of the sampling path that are kept for figures."""
KEPT = 2**26
"""Largest number of pixels or steps in the kept states (256 MiB in float32), with at least :data:`COLUMNS` states."""


def write(
    run: Steered,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    guidance: Config | None = None,
    label: Label = None,
    condition: Asked = None,
    figures: bool = True,
    animate: bool = False,
    after_training: bool = False,
) -> files.Written:
    """Write samples, metrics and figures into ``samples/<number>-<sampler>/`` in the run's folder.

    ``label`` is the class to steer towards, or ``all`` for ``count`` samples of each class in turn. ``condition`` is
    given for all samples, or for ``count`` samples a row; :data:`~sdegen.runs.conditions.DATA` stands for the
    conditions and classes of points of the data, one for each sample, and :data:`~sdegen.runs.conditions.NONE` for
    none. Without guidance, class and condition, DATA is the default of a network that takes a class or a condition: it
    has seen few rows without one, or none. If ``animate`` is true, the figures include an animation.
    TensorBoard shows the samples as a run, unless ``after_training`` is true.
    """
    # Build the guidance before sampling, so that a mistake costs no time.
    condition = conditions.chosen(run, condition, label, guidance)
    name, plan = choice(run.config["sampler"]), planned(run, guidance, label, condition=condition)
    by = "" if guidance is None else f" and the guidance {choice(guidance)}"
    each = " of each class" if label == "all" else " for each condition" if len(plan.targets) > 1 else ""
    each += ", each with the condition of a point of the data," if plan.of_data else ""
    log.info(f"drawing {count} samples{each} with the sampler {name}{by}, {run.weights_used()}")
    if not after_training and (size := processes.present().size) > (batches := -(-count // batch_size)):
        log.info(f"only {batches} of {size} processes can draw: batch_size={-(-count // size)} shares the samples")
    drawn = _drawn(run, plan, count, seed, batch_size)
    own = {"step": run.step, "weights": run.weights, "seed": seed, "batch_size": batch_size}
    own |= {group: run.config[group] for group in ("sampler", "network", "sde")}
    steered = {"ema": run.ema, "guidance": guidance, "label": label, "condition": condition}
    steered = {key: value for key, value in steered.items() if value is not None}
    facts: dict[str, Any] = {"nfe": drawn.nfe, "seconds": drawn.seconds, "seed": seed, "step": run.step}
    if plan.seen is not None:
        facts |= {"measured": observations.picture(run.units, plan.seen).numpy(), "mean": drawn.x.mean(0)}
        facts["std"] = drawn.x.std(0)
    if after_training:
        _forget(run.folder / "samples", {**own, **steered})
    with files.new_folder(run.folder / "samples", name) as (folder, final):
        files.write_yaml(folder / "config.yaml", {**own, **steered})
        _write_samples(folder, run, drawn, facts)
        found = _judge(run, drawn, plan.seen, folder)
        if found is not None and figures:
            with announced("drawing the figures"):
                gallery.draw_samples(run, drawn, plan.seen, folder / "figures", animate)
        # The metrics after a training are those of the run itself.
        if not after_training:
            events.write(folder, run.step, {**(found or {}), "evaluations": {"value": drawn.nfe}})
    return files.Written(final, found or {})


def _forget(samples: Path, config: dict[str, Any]) -> None:
    """Removes the samples of a training that was killed after it had drawn them: they are drawn again.

    Samples of later commands have events of TensorBoard.
    """
    for folder in samples.glob("[0-9]*"):
        path = folder / "config.yaml"
        if path.exists() and path.read_text() == files.as_yaml(config) and not list(folder.glob("events*")):
            shutil.rmtree(folder)


def _drawn(run: Steered, plan: Plan, count: int, seed: int, batch_size: int) -> Drawn:
    """Returns the samples of a plan on the CPU, with a path, and logs the cost."""
    frames = FRAMES[run.units.kind]
    if run.units.kind != "vectors":
        frames = max(COLUMNS, min(frames, KEPT // (min(count, batch_size) * run.units.size)))
    drawn = run.drawn(plan, count, seed=seed, batch_size=batch_size, frames=frames)
    nfe, acceptance = drawn.nfe, drawn.samples.acceptance
    evaluations = f"{nfe:.0f}" if nfe == round(nfe) else f"on average {nfe:.1f}"
    accepted = "" if acceptance is None else f", {acceptance:.1%} of the corrector's moves accepted"
    log.info(f"{evaluations} evaluations a sample, {drawn.seconds:.1f} s{accepted}")
    return drawn._replace(x=drawn.x.cpu())


def write_likelihood(run: Steered, model: Likelihood, draw: bool) -> Metrics:
    """Measure a classifier or a regressor over t. If ``draw`` is true, write a figure into the run's folder."""
    found, times, curves, name = likelihoods.judge(run.dataset, model, run.device, run.dtype)
    if draw:
        accurate = name == "accuracy"
        shown = figures.accuracy(times, curves, 1 / (run.classes or 1)) if accurate else figures.nll(times, curves)
        figures.save(shown, run.folder / "figures" / f"{name}.png")
    if found:
        log.info(metrics.table(found, "unseen"))
    else:
        why = metrics.unmeasured(run.dataset) or "no data are held out"
        log.info(f"no metrics: {why}: use data with a held-out part")
    return found


def _write_samples(folder: Path, run: Steered, drawn: Drawn, facts: dict[str, Any]) -> None:
    """Writes ``samples.npz``, and ``samples.csv`` for points or ``samples.png`` for images."""
    names, values = run.names, drawn.x.numpy()
    arrays: dict[str, Any] = {"x": values, **facts}
    if names.columns:
        arrays["names"] = np.array(names.columns)
    if drawn.y is not None:
        arrays |= {"y": drawn.y.numpy(), **({"classes": np.array(names.classes)} if names.classes else {})}
    if drawn.c is not None:
        arrays["c"] = drawn.c.numpy()
    np.savez(folder / "samples.npz", **arrays)
    if values.ndim == 2:
        decimal = "."
        # Without the data, the decimal sign of their file is not known.
        with contextlib.suppress(UserError):
            decimal = "," if run.dataset.description.decimal == "comma" else "."
        write_table(folder / "samples.csv", names, drawn.x, drawn.y, drawn.c, decimal)
    elif values.ndim > 3:
        low, high = values.min(), values.max()
        imsave(folder / "samples.png", figures.image_grid((drawn.x - low) / (high - low)), cmap="gray", vmin=0, vmax=1)


def write_table(
    path: Path, names: Description, x: Tensor, y: Tensor | None = None, c: Tensor | None = None, decimal: str = "."
) -> None:
    """Writes points with the names of their columns, the numbers of their conditions, and a column ``label``."""
    heads = [names.column(i) for i in range(x.shape[1])]
    if c is not None and c.ndim == 2:
        heads += [names.condition(i) for i in range(c.shape[1])]
        x = torch.cat([x, c], dim=1)
    rows = [[f"{value:.18e}".replace(".", decimal) for value in row] for row in x.tolist()]
    if y is not None:
        # A column of the data may have this name already.
        heads.append("label" if "label" not in heads else "label of the sample")
        rows = [[*row, names.label(number)] for row, number in zip(rows, y.tolist(), strict=True)]
    files.write_table(path, heads, rows, decimal)


def _diverged(dataset: Dataset, x: Tensor) -> Metrics:
    """Returns and logs the share of images with values far outside of the range of the data; empty if no images."""
    if dataset.units.kind != "images":
        return {}
    count = int(diverged(x, *view(dataset.x)).sum())
    if count:
        log.warning(
            f"{count} of {len(x)} samples diverged, with values far outside of the range of the data: try more "
            f"sampler.steps; the mean and deviation in posterior.png are without them"
        )
    share = {"value": count / len(x), "floor": 0.0, "train": None, "floor_from": "the data lie inside of their range"}
    return {"diverged": share}


def _judge(run: Steered, drawn: Drawn, seen: Observation | None, folder: Path) -> Metrics | None:
    """Write the metrics of samples into a folder. If the data cannot be read, log a warning and return None."""
    try:
        dataset = run.dataset
    except UserError as error:
        log.warning(f"no metrics and no figures: {error}")
        return None
    if seen is not None:
        found = {**observations.agreement(run.units, drawn.x, seen), **_diverged(dataset, drawn.x)}
    elif drawn.c is not None and drawn.truth is None:
        found = measures.measure_given(run, drawn.x, drawn.c)
    else:
        # The mean of p(x | y) over the conditions y of the data is p(x).
        found = measures.measure(run, drawn.x, drawn.y, shares=drawn.truth is not None)
        if run.units.kind == "vectors" and not conditions.needs_one(run):
            taken = run.model.network.condition
            alone = taken is not None and taken.labelled and taken.knows(True, False)
            found |= measures.score_error(run, drawn.y if alone else None)
    files.write_json(folder / "metrics.json", found)
    if found:
        log.info(metrics.table(found))
    elif drawn.c is not None and drawn.truth is None:
        log.info("no metrics: the distribution given the condition is not known")
    elif len(drawn.x) > 1:
        why = metrics.unmeasured(dataset) or "no data are held out"
        log.info(f"no metrics: {why}: use data with a held-out part")
    return found
