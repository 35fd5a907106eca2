"""What a run leaves when it is finished or sampled: files, metrics and figures in its folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdegen import figures, metrics
from sdegen.config.compose import Config
from sdegen.config.remedies import choice
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.figures import animations
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement, array, linear_units
from sdegen.metrics.features import Features, train_features
from sdegen.metrics.points import Metrics
from sdegen.models.classifier import ClassifierModel, log_likelihood_by_time
from sdegen.runs import checkpoint, files
from sdegen.runs.run import Run, on_cpu
from sdegen.samplers import Samples

log = logging.getLogger("sdegen")

FRAMES = {"vectors": 101, "images": 41}
"""States of the path kept for figures."""
KEPT = 2**26
"""Numbers, 256 MiB of float32, above which fewer states of images are kept, but :data:`COLUMNS`."""
ROWS, COLUMNS = 4, 11
"""Images, and their states, in the figure of their generation."""
TIMES = 41
"""Times at which the accuracy of a classifier is measured."""
CLASSIFIED = 5000
"""Points that are classified at each."""

Label = int | Literal["all"] | None


class Written(NamedTuple):
    """What was left on the disk."""

    folder: Path
    metrics: Metrics


class Observation(NamedTuple):
    """What is measured, in the user's units, ``(1, *)`` or None, and what was found, ``(1, …)`` in the network's."""

    truth: Tensor | None
    y: Tensor
    measurement: Measurement


class Drawn(NamedTuple):
    """Samples in the user's units ``(N, *)``, their classes ``(N,)`` or None, the path, and what it took."""

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
    animate: bool = False,
) -> Written:
    """Sample, measure and draw into ``samples/<number>-<sampler>/`` of the run's folder.

    Args:
        run: the run.
        count: how many samples, of each class where all are asked for.
        seed: of the samples.
        batch_size: samples computed at once.
        guidance: a node of the group; None for the score itself.
        label: the class to steer towards, ``all`` for one after the other, None where there is none.
        animate: leave an animation, too.
    """
    name = choice(run.config["sampler"])
    asked = labels(run, guidance, label)
    seen = observe(run, guidance)
    observed = None if seen is None else seen.y
    # Built before anything is drawn, so that what cannot work costs nothing.
    steering = [None if guidance is None else run.guide(guidance, one, observed) for one in asked]
    by = "" if guidance is None else f" under {choice(guidance)}"
    log.info(f"sampling {count}{' of each class' if len(asked) > 1 else ''} by {name}{by}, {run.weights_used()}")
    drawn = generate(run, asked, steering, count, seed, batch_size)
    nfe = f"{drawn.nfe:.0f}" if drawn.nfe == round(drawn.nfe) else f"on average {drawn.nfe:.1f}"
    acceptance = drawn.samples.acceptance
    accepted = "" if acceptance is None else f", {acceptance:.1%} of the corrector's moves accepted"
    log.info(f"{nfe} evaluations a sample, {drawn.seconds:.1f} s{accepted}")
    own = {"step": run.step, "weights": run.weights, "seed": seed, "batch_size": batch_size}
    own |= {group: run.config[group] for group in ("sampler", "network")}
    with files.new_folder(run.folder / "samples", name) as (folder, final):
        steered = {} if guidance is None else {"guidance": guidance, "label": label}
        files.write_yaml(folder / "config.yaml", {**own, **steered})
        facts: dict[str, Any] = {"nfe": drawn.nfe, "seconds": drawn.seconds, "seed": seed, "step": run.step}
        if drawn.y is not None:
            facts["y"] = drawn.y.numpy()
        if seen is not None:
            facts |= {"measured": measured(run, seen).numpy(), "mean": drawn.x.mean(0), "std": drawn.x.std(0)}
        files.write_samples(folder, drawn.x, **facts)
        found: Metrics = {}
        try:
            dataset = run.dataset
        except UserError as error:
            log.warning(f"no metrics and no figures: {error}")
        else:
            found = measure(run, dataset, drawn) if seen is None else agree(run, drawn, seen)
            files.write_json(folder / "metrics.json", found)
            for figure_name, figure in draw(run, dataset, drawn, seen).items():
                figures.save(figure, folder / "figures" / f"{figure_name}.png")
            if animate:
                frames = animations.animation(dataset, drawn.samples, run.sde)
                animations.save(frames, folder / "figures" / "generation.gif")
            if found:
                log.info(metrics.table(found))
            elif len(drawn.x) > 1:
                log.info(f"no metrics: {metrics.unmeasured(dataset) or 'no images were held out'}")
    return Written(final, found)


def labels(run: Run, guidance: Config | None, label: Label) -> list[int | None]:
    """The classes to be sampled, one after the other; UserError where that has no meaning."""
    if label is None:
        return [None]
    if guidance is not None and not run.steers(guidance, "label"):
        raise UserError(f"label={label}: guidance={choice(guidance)} steers towards no class: leave it out")
    if guidance is None:
        raise UserError(f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free")
    if run.classes is None:
        raise UserError(f"label={label}: the data of {run.folder} have no labels")
    if label == "all":
        return list(range(run.classes))
    if not 0 <= label < run.classes:
        raise UserError(f"label={label} is no class of the data: choose from 0 to {run.classes - 1}, or label=all")
    return [label]


def generate(
    run: Run,
    asked: Sequence[int | None],
    steering: Sequence[Guidance | None],
    count: int,
    seed: int,
    batch_size: int,
) -> Drawn:
    """``count`` samples for each class that is asked for, one class after the other."""
    started = time.perf_counter()
    frames = FRAMES["vectors" if len(run.units.shape) == 1 else "images"]
    if len(run.units.shape) > 1:
        frames = max(COLUMNS, min(frames, KEPT // (min(count, batch_size) * run.units.size)))
    parts = [
        run.generate(
            count, seed=seed, batch_size=batch_size, frames=0 if i else frames, guidance=guidance, first=i * count
        )
        for i, guidance in enumerate(steering)
    ]
    seconds = time.perf_counter() - started
    x = torch.cat([run.units.decode(part.x).cpu() for part in parts])
    y = None if asked[0] is None else torch.tensor(asked).repeat_interleave(count)
    return Drawn(x, y, parts[0], sum(part.nfe for part in parts) / len(parts), seconds)


def measure(run: Run, dataset: Dataset, drawn: Drawn) -> Metrics:
    """What there is to measure of samples: of points, of images, or of images of the classes asked for."""
    if len(run.units.shape) == 1:
        found = metrics.measure_points(dataset, drawn.x)
        off = metrics.score_error(dataset, run.sde, on_cpu(run.score_model, run.device, run.dtype))
        if off is not None:
            found["score_error"] = {"value": off, "floor": 0.0, "train": None, "floor_from": "exact score"}
        return found
    # The classes of draws from the law are not known: what images are measured against is held out.
    if len(drawn.x) < 2 or dataset.held_out is None:
        return {}
    features = features_of(run, dataset)
    if drawn.y is None or features is None:
        return metrics.measure_images(dataset, drawn.x, features)
    conditional = metrics.measure_conditional(dataset, drawn.x, drawn.y, features)
    whole = metrics.measure_images(dataset, drawn.x, features) if len(drawn.y.unique()) == run.classes else {}
    return {**whole, **conditional}


def features_of(run: Run, dataset: Dataset) -> Features | None:
    """The classifier in whose eyes images are compared, kept in the run's folder; None where there are no labels."""
    if dataset.y is None or dataset.classes is None:
        return None
    path = run.folder / "features.pt"
    if path.exists():
        features = Features(run.units.shape, dataset.classes)
        try:
            features.load_state_dict(checkpoint.stored(path))  # type: ignore[arg-type]
        except (UserError, RuntimeError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a file of features ({type(error).__name__}): remove it") from None
        return features.eval()
    log.info("training the classifier in whose features images are compared")
    features = train_features(run.units.encode(dataset.x).float(), dataset.y, dataset.classes)
    files.replace(path, lambda temporary: torch.save(features.state_dict(), temporary))
    return features


def draw(run: Run, dataset: Dataset, drawn: Drawn, seen: Observation | None) -> Mapping[str, Figure]:
    """The figures of samples by their names."""
    if len(run.units.shape) == 1:
        shown = {
            "samples": figures.compare(dataset, drawn.x),
            "marginals": figures.marginals(dataset, drawn.samples, run.sde),
        }
        if run.units.shape != (1,):
            shown["trajectories"] = figures.trajectories(dataset, drawn.samples, run.sde)
        return shown
    x = metrics.quantized(drawn.x, dataset.levels)
    low, high = float(dataset.x[:1000].min()), float(dataset.x[:1000].max())
    path = torch.stack([run.units.decode(frame).cpu() for frame in drawn.samples.path[:, :ROWS]])
    shown = {"generation": figures.generation(path, drawn.samples.times.cpu(), low, high, ROWS, COLUMNS)}
    if seen is not None:
        named = (seen.truth if seen.truth is None else seen.truth[0], measured(run, seen))
        return {"posterior": figures.posterior(*named, drawn.x, low, high), **shown}
    if drawn.y is None:
        return {"samples": figures.compare(dataset, x), **shown}
    return {"classes": figures.classes(x, drawn.y, low, high), **shown}


def draw_score(run: Run) -> Mapping[str, Figure]:
    """The figures of a run's score, whatever samples are drawn by it, by their names: of points, in one or two
    dimensions.
    """
    if len(run.units.shape) > 1:
        return {}
    score, shown = on_cpu(run.score_model, run.device, run.dtype), {}
    if run.units.shape == (1,):
        shown["process"] = figures.process(run.dataset, run.sde, score)
    field = figures.score_field(run.dataset, run.sde, score, learned=not run.score_model.network.exact)
    return shown if field is None else {**shown, "score_field": field}


def observe(run: Run, guidance: Config | None) -> Observation | None:
    """What a guidance measures: a held-out image, or what a file holds; None where it measures nothing.

    The noise is the same for every seed of the samples.

    Raises:
        UserError: there is no such image or file.
    """
    if guidance is None or not run.steers(guidance, "observed"):
        return None
    affine, measurement = linear_units(run.units, choice(guidance)), run.measurement(guidance)
    if guidance["path"] is not None:
        try:
            y = array(guidance["path"]).double()[None]
            zero = measurement(affine.shift[None])
            if y.shape != zero.shape:
                raise ValueError(f"must have the shape {tuple(zero.shape[1:])}, and has {tuple(y.shape[1:])}")
            if not affine.uniform:
                raise ValueError(
                    "is in the units of the data, whose columns are scaled differently for the network: train a run "
                    "with dataset.standardize=false"
                )
        except ValueError as error:
            raise UserError(f"guidance.path={guidance['path']}: {error}") from None
        return Observation(None, (y - zero) / affine.scale.flatten()[0], measurement)
    held_out = run.dataset.held_out
    if held_out is None:
        source = generator("cpu", 0, "measured")
        held_out = run.dataset.draw(guidance["image"] + 1, source)
    if held_out is None:
        why = metrics.unmeasured(run.dataset)
        raise UserError(f"guidance.image={guidance['image']}: {why}: give what was measured by guidance.path=")
    if not 0 <= guidance["image"] < len(held_out):
        raise UserError(f"guidance.image={guidance['image']}: choose from 0 to {len(held_out) - 1}")
    truth = held_out[guidance["image"] : guidance["image"] + 1].double()
    y = measurement(run.units.encode(truth))
    noise = torch.randn(y.shape, generator=generator("cpu", 0, "measurement", guidance["image"]), dtype=y.dtype)
    return Observation(truth, y + guidance["noise"] * noise, measurement)


def measured(run: Run, seen: Observation) -> Tensor:
    """A measurement in the user's units, or in the network's if the columns are scaled differently; as a picture
    where it is one.
    """
    affine = run.units.affine
    if affine is None or not affine.uniform:
        return seen.measurement.picture(seen.y)
    return seen.measurement.picture(seen.y * affine.scale.flatten()[0] + seen.measurement(affine.shift[None]))


def agree(run: Run, drawn: Drawn, seen: Observation) -> Metrics:
    """How far samples are from what was measured, and their mean from what there was, in standard units."""
    off = seen.measurement(run.units.encode(drawn.x)) - seen.y
    source = "the noise of the measurement"
    found: Metrics = {"residual": {"value": rms(off), "floor": None, "train": None, "floor_from": source}}
    if seen.truth is not None:
        truth = run.units.encode(seen.truth)
        spread, mean = rms(run.units.encode(drawn.x) - run.units.encode(drawn.x.mean(0, keepdim=True))), drawn.x.mean(0)
        error = rms(run.units.encode(mean[None]) - truth)
        found["residual"]["floor"] = rms(seen.measurement(truth) - seen.y)
        found["error_of_mean"] = {"value": error, "floor": spread, "train": None, "floor_from": "spread of the samples"}
    return found


def rms(x: Tensor) -> float:
    """Root mean square of all entries."""
    return float(x.square().mean().sqrt())


def write_accuracy(run: Run, model: ClassifierModel) -> Written:
    """Measure a classifier of noisy data over time, into the run's folder."""
    found, curves = accuracy(run.dataset, model, run.device, run.dtype)
    chance = 1 / (run.classes or 1)
    figures.save(figures.accuracy(*curves, chance), run.folder / "figures" / "accuracy.png")
    log.info(metrics.table(found, "held out") if found else f"no metrics: {metrics.unmeasured(run.dataset)}")
    return Written(run.folder, found)


def accuracy(
    dataset: Dataset, model: ClassifierModel, device: torch.device, dtype: torch.dtype
) -> tuple[Metrics, tuple[Tensor, dict[str, Tensor]]]:
    """The mean accuracy and cross entropy of a classifier over t, and the accuracy at each time.

    There is no floor: what is best at a noise level is not known. Where nothing is held out there are no metrics, and
    the curve of the training images alone.
    """
    times = torch.linspace(model.sde.eps, model.sde.T, TIMES, dtype=torch.float64)
    named = {"held-out images": (dataset.held_out, dataset.held_out_y), "training images": (dataset.x, dataset.y)}
    curves, rows = {}, []
    for name, (x, y) in named.items():
        if x is None or y is None:
            continue
        inner = dataset.units.encode(x[:CLASSIFIED]).to(device, dtype)
        log_p, hits = log_likelihood_by_time(model, inner, y[:CLASSIFIED].to(device), times)
        curves[name] = hits
        rows.append({"accuracy": float(hits.mean()), "accuracy_clean": float(hits[0]), "nll": float(-log_p.mean())})
    if len(rows) < len(named):
        return {}, (times, curves)
    source = "not known: chance is 1 over the number of classes"
    found: Metrics = {
        key: {"value": rows[0][key], "floor": None, "train": rows[1][key], "floor_from": source} for key in rows[0]
    }
    return found, (times, curves)
