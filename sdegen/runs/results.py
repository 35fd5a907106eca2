"""The files that sampling writes into a run's folder: samples, metrics and figures."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
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
from sdegen.core.progress import announced
from sdegen.datasets import Description
from sdegen.figures import animations
from sdegen.figures.images import view
from sdegen.metrics.points import Metrics
from sdegen.models.likelihood import Likelihood
from sdegen.runs import conditions, events, files, guiding, likelihoods, measures
from sdegen.runs.conditions import DATA, Asked
from sdegen.runs.guiding import Label, Observation, Plan, Target, planned
from sdegen.runs.run import Run
from sdegen.runs.sampling import on_cpu
from sdegen.samplers import Samples
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted

log = logging.getLogger("sdegen")

FRAMES = {"vectors": 101, "signals": 41, "images": 41}
"""Number of states of the sampling path that are kept for figures."""
KEPT = 2**26
"""Largest number of pixels or steps in the kept states (256 MiB in float32), with at least :data:`COLUMNS` states."""
SHOWN = 6
"""Largest number of samples of a condition in a figure."""
ROWS, COLUMNS = 4, 11
"""Number of images, and number of states of each image, in the figure of the generation of images."""


class Drawn(NamedTuple):
    """Samples ``x`` ``(N, *)`` in the user's units, and the cost of the sampling.

    ``y`` ``(N,)`` are the classes and ``c`` ``(N, *)`` the conditions of the samples; None if there are none.
    ``truth`` ``(N, *)`` are the unseen points with these classes and conditions; None if the user gave them.
    ``samples`` are the samples of the first target in the network's units, with the path.
    """

    x: Tensor
    y: Tensor | None
    c: Tensor | None
    truth: Tensor | None
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
    condition: Asked = None,
    figures: bool = True,
    animate: bool = False,
    after_training: bool = False,
) -> files.Written:
    """Write samples, metrics and figures into ``samples/<number>-<sampler>/`` in the run's folder.

    ``label`` is the class to steer towards, or ``all`` for ``count`` samples of each class in turn. ``condition`` is
    given for all samples, or for ``count`` samples a row; :data:`~sdegen.runs.conditions.DATA` stands for the
    conditions of unseen points, one for each sample. If ``animate`` is true, the figures include an animation.
    TensorBoard shows the samples as a run, unless ``after_training`` is true.
    """
    # Build the guidance before sampling, so that a mistake costs no time.
    of_data, name = condition == DATA if isinstance(condition, str) else False, choice(run.config["sampler"])
    plan = planned(run, guidance, label, condition=condition)
    by = "" if guidance is None else f" and the guidance {choice(guidance)}"
    each = " of each class" if label == "all" else " for each condition" if len(plan.targets) > 1 else ""
    each += ", each with the condition of an unseen point," if of_data else ""
    log.info(f"drawing {count} samples{each} with the sampler {name}{by}, {run.weights_used()}")
    drawn = _drawn(run, plan, count, seed, batch_size, of_data)
    own = {"step": run.step, "weights": run.weights, "seed": seed, "batch_size": batch_size}
    own |= {group: run.config[group] for group in ("sampler", "network", "sde")}
    steered = {"guidance": guidance, "label": label, "condition": condition}
    steered = {key: value for key, value in steered.items() if value is not None}
    facts: dict[str, Any] = {"nfe": drawn.nfe, "seconds": drawn.seconds, "seed": seed, "step": run.step}
    if plan.seen is not None:
        facts |= {"measured": guiding.picture(run.units, plan.seen).numpy(), "mean": drawn.x.mean(0)}
        facts["std"] = drawn.x.std(0)
    with files.new_folder(run.folder / "samples", name) as (folder, final):
        files.write_yaml(folder / "config.yaml", {**own, **steered})
        _write_samples(folder, run.names, drawn, facts)
        found = _judge(run, drawn, plan.seen, folder)
        if found is not None and figures:
            with announced("drawing the figures"):
                _draw_samples(run, drawn, plan, folder / "figures", animate)
        # The metrics after a training are those of the run itself.
        if not after_training:
            events.write(folder, run.step, {**(found or {}), "evaluations": {"value": drawn.nfe}})
    return files.Written(final, found or {})


def _drawn(run: Run, plan: Plan, count: int, seed: int, batch_size: int, of_data: bool) -> Drawn:
    """Returns ``count`` samples of each target of a plan, one after the other.

    If ``of_data`` is true, each sample has the condition of an unseen point.
    """
    started = time.perf_counter()
    frames = FRAMES[run.units.kind]
    if run.units.kind != "vectors":
        frames = max(COLUMNS, min(frames, KEPT // (min(count, batch_size) * run.units.size)))
    y = None if plan.targets[0].label is None else torch.tensor([target.label for target in plan.targets])
    y = None if y is None else y.repeat_interleave(count)
    given = [target.condition for target in plan.targets if target.condition is not None]
    c = torch.stack(given).repeat_interleave(count, 0) if given else None
    targets, truth = plan.targets, None
    if of_data and (taken := run.model.network.condition) is not None:
        told, truth, y, c = conditions.of_data(run.dataset, taken, count, seed)
        targets = [target._replace(told=told) for target in targets]
    parts = [
        run.generate(
            count,
            seed=seed,
            batch_size=batch_size,
            frames=0 if i else frames,
            guidance=target.guidance,
            first=i * count,
            told=target.told,
        )
        for i, target in enumerate(targets)
    ]
    seconds = time.perf_counter() - started
    x = torch.cat([run.units.decode(part.x).cpu() for part in parts])
    nfe, acceptance = sum(part.nfe for part in parts) / len(parts), parts[0].acceptance
    evaluations = f"{nfe:.0f}" if nfe == round(nfe) else f"on average {nfe:.1f}"
    accepted = "" if acceptance is None else f", {acceptance:.1%} of the corrector's moves accepted"
    log.info(f"{evaluations} evaluations a sample, {seconds:.1f} s{accepted}")
    return Drawn(x, y, c, truth, parts[0], nfe, seconds)


def write_likelihood(run: Run, model: Likelihood, draw: bool) -> Metrics:
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


def _write_samples(folder: Path, names: Description, drawn: Drawn, facts: dict[str, Any]) -> None:
    """Writes ``samples.npz``, and ``samples.csv`` for points or ``samples.png`` for images."""
    values, labels = drawn.x.numpy(), None
    arrays: dict[str, Any] = {"x": values, **facts}
    if names.columns:
        arrays["names"] = np.array(names.columns)
    if drawn.y is not None:
        labels = [names.label(number) for number in drawn.y.tolist()]
        arrays |= {"y": drawn.y.numpy(), **({"classes": np.array(names.classes)} if names.classes else {})}
    if drawn.c is not None:
        arrays["c"] = drawn.c.numpy()
    np.savez(folder / "samples.npz", **arrays)
    if values.ndim == 2:
        given = None if drawn.c is None or drawn.c.ndim != 2 else drawn.c.numpy()
        _write_table(folder / "samples.csv", names, values, labels, given)
    elif values.ndim > 3:
        low, high = values.min(), values.max()
        imsave(folder / "samples.png", figures.image_grid((drawn.x - low) / (high - low)), cmap="gray", vmin=0, vmax=1)


def _write_table(
    path: Path, names: Description, x: np.ndarray, labels: Sequence[str] | None, given: np.ndarray | None
) -> None:
    """Writes points with the names of their columns, the numbers of their conditions, and a column ``label``."""
    heads = [names.column(i) for i in range(x.shape[1])]
    if given is not None:
        heads += [names.condition(i) for i in range(given.shape[1])]
        x = np.concatenate([x, given], axis=1)
    rows = [[f"{value:.18e}" for value in row] for row in x.tolist()]
    if labels is not None:
        # A column of the data may have this name already.
        heads.append("label" if "label" not in heads else "label of the sample")
        rows = [[*row, label] for row, label in zip(rows, labels, strict=True)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *rows])


def _judge(run: Run, drawn: Drawn, seen: Observation | None, folder: Path) -> Metrics | None:
    """Write the metrics of samples into a folder. If the data cannot be read, log a warning and return None."""
    try:
        dataset = run.dataset
    except UserError as error:
        log.warning(f"no metrics and no figures: {error}")
        return None
    if seen is not None:
        found = guiding.agreement(run.units, drawn.x, seen)
    elif drawn.c is not None and drawn.truth is None:
        found = measures.measure_given(run, drawn.x, drawn.c)
    else:
        # The mean of p(x | y) over the conditions y of the data is p(x).
        found = measures.measure(run, drawn.x, drawn.y)
        if run.units.kind == "vectors" and not conditions.needs_one(run):
            y = None if run.model.network.condition is None else drawn.y
            found |= measures.score_error(run, y)
    files.write_json(folder / "metrics.json", found)
    if found:
        log.info(metrics.table(found))
    elif drawn.c is not None and drawn.truth is None:
        log.info("no metrics: the distribution given the condition is not known")
    elif len(drawn.x) > 1:
        why = metrics.unmeasured(dataset) or "no data are held out"
        log.info(f"no metrics: {why}: use data with a held-out part")
    return found


def _draw_samples(run: Run, drawn: Drawn, plan: Plan, folder: Path, animate: bool) -> None:
    dataset, x, samples, seen = run.dataset, drawn.x, drawn.samples, plan.seen
    if run.units.kind == "vectors":
        # The path is the path of the first target.
        target, one = plan.targets[0], drawn.c is None or len(drawn.c.unique(dim=0)) == 1
        if drawn.c is not None and one:
            dataset = dataset.given(drawn.c[0]) or dataset
        shown = {"samples": figures.compare(dataset, x, drawn.y)}
        if drawn.y is not None and dataset.y is not None and one:
            dataset = dataset.of_class(int(drawn.y[0]))
        shown["marginals"] = figures.marginals(dataset, samples, run.sde)
        if run.units.shape != (1,) and one:
            shown["trajectories"] = figures.trajectories(dataset, samples, run.sde, _flow(run, target, samples))
        if drawn.y is not None and one:
            title = f"class {run.names.label(int(drawn.y[0]))}"
            shown["marginals"].suptitle(title)
            if "trajectories" in shown:
                # The legend lies where the title of the figure would be.
                shown["trajectories"].axes[0].set_title(title)
    elif run.units.kind == "signals":
        shown = _signal_figures(run, drawn, seen)
    else:
        low, high = view(dataset.x)
        path = torch.stack([run.units.decode(frame).cpu() for frame in samples.path[:, :ROWS]])
        shown = {"generation": figures.generation(path, samples.times.cpu(), low, high, ROWS, COLUMNS)}
        rounded = metrics.quantized(x, dataset.levels)
        if seen is not None:
            truth = None if seen.truth is None else seen.truth[0]
            shown["posterior"] = figures.posterior(truth, guiding.picture(run.units, seen), x, low, high)
        elif (given := _by_condition(drawn, rounded)) is not None:
            shown["conditions"] = figures.conditioned(*given, low, high)
        elif drawn.y is not None:
            shown["classes"] = figures.classes(rounded, drawn.y, low, high)
        else:
            shown["samples"] = figures.compare(dataset, rounded)
    _save(shown, folder)
    if animate:
        animations.save(animations.animation(dataset, samples, run.sde), folder / "generation.gif")


def _flow(run: Run, target: Target, samples: Samples) -> Samples | None:
    """Returns paths of the flow from the noise of the first samples. Samplers with the same noise share the paths."""
    if target.guidance is not None or target.told is not None:
        told: Score = run.score_model if target.told is None else run.score_model.given(target.told)
        steered = told if target.guidance is None else target.guidance(run.sde, Counted(told))
        return figures.flow(run.sde, on_cpu(steered, run.device, run.dtype), samples)
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


def _signal_figures(run: Run, drawn: Drawn, seen: Observation | None) -> dict[str, Figure]:
    shown = {"generation": figures.signal_generation(drawn.samples.path, drawn.samples.times.cpu())}
    if seen is not None:
        truth = None if seen.truth is None else seen.truth[0]
        shown["posterior"] = figures.signal_posterior(truth, guiding.picture(run.units, seen), drawn.x)
    elif (given := _by_condition(drawn, drawn.x)) is not None:
        shown["conditions"] = figures.signal_conditioned(*given)
    elif drawn.y is not None:
        shown["classes"] = figures.signal_classes(drawn.x, drawn.y, run.names.classes)
    else:
        shown["samples"] = figures.compare(run.dataset, drawn.x)
    return shown


def draw_score(run: Run, folder: Path) -> None:
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
