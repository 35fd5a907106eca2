"""Guidance of a trained model, the measurements that guided samples agree with, and metrics of this agreement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.compose import Config
from sdegen.config.construction import construct
from sdegen.config.options import choice
from sdegen.config.rules import check_process
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Units
from sdegen.guidance.classes import AutoGuidance, Guidance
from sdegen.guidance.measurement import Measurement, linear_units
from sdegen.guidance.measurement import array as stored
from sdegen.guidance.noise import STD, Gaussian, Noise, as_noise
from sdegen.guidance.operator import Decoded, Repeated, Together, check_operator
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.models.classifier import ClassifierModel
from sdegen.models.likelihood import Likelihood
from sdegen.models.regressor import RegressorModel
from sdegen.models.score import ScoreModel
from sdegen.runs import conditions
from sdegen.runs.arrays import ArrayLike, array
from sdegen.runs.conditions import DATA, Asked
from sdegen.runs.trained import Trained
from sdegen.sde.scores import Counted

Label = int | float | str | bool | None
"""Label of a class, as the data have it; ``all`` for all classes, None for no class."""
WANTED = {
    ClassifierModel: "classifier: train one with objective=classification",
    RegressorModel: "regressor: train one with experiment=regressor",
    ScoreModel: "score: use another",
}
"""Kinds of models in the run of a guidance, with the fix if the run holds another kind."""


class Observation(NamedTuple):
    """A measurement and its result.

    Attributes:
        truth: measured image, ``(1, *)`` in the user's units; None if the user gave the result.
        y: result of the measurement, ``(1, …)`` in the units of the measurement.
        measurement: measurement of points in the network's units.
        noise: noise of the measurement.
    """

    truth: Tensor | None
    y: Tensor
    measurement: Measurement
    noise: Noise


class Target(NamedTuple):
    """Class, condition and guidance of samples.

    Attributes:
        label: class of the samples; None for no class.
        condition: condition of the samples, ``(*)`` in the user's units; None for no condition.
        told: value that the network takes for both; None if it is told neither, or if the guidance tells it.
        guidance: guidance of the score; None for no guidance.
    """

    label: int | None
    condition: Tensor | None
    told: Tensor | None
    guidance: Guidance | None


class Plan(NamedTuple):
    """Targets of a sampling, one after the other, and the observation of a measurement, or None."""

    targets: list[Target]
    seen: Observation | None


def planned(
    trained: Trained,
    node: Config | None,
    label: Label,
    given: Tensor | Sequence[Tensor] | None = None,
    other: Trained | None = None,
    condition: Asked = None,
) -> Plan:
    """Returns the targets that a node of guidance, a label and conditions describe.

    ``given`` is the result of a measurement in the user's units, or a list with that of each measurement. ``other`` is
    the run that the node names, if this run is loaded already. Raises UserError if the guidance, the label or the
    condition does not suit the model.
    """
    pairs, of_data = _pairs(trained, node, label, condition), isinstance(condition, str) and condition == DATA
    if condition is not None and trained.conditions is not None and (node is None or not _steers(trained, node, "y")):
        conditions.check_taken(trained)
    if node is None:
        for one, c in pairs if not of_data else ():
            conditions.check_known(trained, one is not None, c is not None)
        return Plan([Target(one, c, _told(trained, one, c), None) for one, c in pairs], None)
    if of_data:
        raise UserError(
            f"condition=data: guidance={choice(node)} takes one condition for all samples: give them in a file"
        )
    seen = _observation(trained, node, given)
    own: dict[str, object] = {}
    if seen is not None:
        own = {"observed": seen.y, "measurement": seen.measurement, "noise": seen.noise}

    @cache
    def load(folder: str | None, kind: type) -> ScoreModel | Likelihood:
        which = node.get("checkpoint", "last")
        settings = {"device": str(trained.device), "precision": trained.precision, "trust": trained.trust}
        found = other
        if found is None or which != "last":
            found = Trained(Path(folder or trained.folder), which, **settings)  # type: ignore[arg-type]
        return _matching(trained, found, folder or str(trained.folder), kind)

    targets = []
    for one, c in pairs:
        tells = _steers(trained, node, "given")
        y = None if c is None or trained.conditions is None else trained.conditions.encode(c)
        steered = {by for by, value in (("label", one), ("y", c)) if value is not None and _steers(trained, node, by)}
        label, value = None if "label" in steered and not tells else one, None if "y" in steered else c
        if label is not None or value is not None:
            conditions.check_known(trained, label is not None, value is not None)
        told = _told(trained, label, value)
        guidance = _guidance(trained, node, one, {**own, "given": told, "y": y}, load)
        if isinstance(guidance, AutoGuidance):
            _check_weaker(trained, guidance.weak, node["run"], label is not None, value is not None)
        targets.append(Target(one, c, None if tells else told, guidance))
    return Plan(targets, seen)


def _pairs(
    trained: Trained, node: Config | None, label: Label, condition: Asked
) -> Sequence[tuple[int | None, Tensor | None]]:
    """Returns the classes and conditions of the targets; None for no class and for no condition."""
    if isinstance(condition, str) and condition == DATA:
        if label is not None:
            raise UserError(f"label={label}: condition=data takes the classes of the data, too: leave out label=")
        return [(None, None)]
    classes, rows = _classes(trained, node, label), conditions.rows(trained, condition)
    if rows is None:
        return [(one, None) for one in classes]
    if rows.labels is not None:
        own = rows.labels.tolist()
        if label is not None and (len(classes) > 1 or {*own} != {*classes}):
            named = ", ".join(trained.names.label(number) for number in sorted({*own}))
            raise UserError(f"label={label}: the rows of condition= have the labels {named}: leave out label=")
        return list(zip(own, rows.values, strict=True))
    if len(classes) > 1 < len(rows.values):
        raise UserError("label=all: give a single condition, or a single label for all rows of condition=")
    return [(one, c) for one in classes for c in rows.values]


def _told(trained: Trained, label: int | None, condition: Tensor | None) -> Tensor | None:
    """Returns the value that the network takes for a class and a condition; None if both are None."""
    taken = trained.model.network.condition
    if taken is None or (label is None and condition is None):
        return None
    return conditions.told(taken, trained.conditions, None if label is None else torch.tensor(label), condition)


def _guidance(
    trained: Trained,
    node: Config,
    label: int | None,
    own: Mapping[str, object],
    load: Callable[[str | None, type], ScoreModel | Likelihood],
) -> Guidance:
    """Returns the guidance towards the class ``label``, or towards a condition or an observation in ``own``."""
    if _steers(trained, node, "given") and label is not None and own.get("given") is None:
        raise UserError(_lacking(trained, node))
    supplied = {"label": label, "shape": trained.units.shape, "load": load, **own}
    rest = {key: value for key, value in node.items() if key not in own}
    guidance: Guidance = construct({"guidance": rest}, "guidance", trained.trust, **supplied)
    if guidance.conditional and trained.model.network.condition is None:
        raise UserError(_lacking(trained, node))
    taken = trained.model.network.condition
    if (guidance.contrasts or own.get("given") is None) and taken is not None and conditions.needs_one(trained):
        parts = {"label_dropout": taken.labelled, "condition_dropout": taken.valued}
        dropout = " ".join(f"network.{option}=0.1" for option, has in parts.items() if has)
        other = ", or use guidance.scale=1" if guidance.conditional else ""
        raise UserError(
            f"guidance={choice(node)}: the network of {trained.folder} has learned no score without a condition: train "
            f"one with {dropout}{other}"
        )
    check_process({**trained.config, "guidance": node}, {"guidance": guidance}, trained.trust)
    # The guidance checks the process when it makes the score. This costs nothing.
    guidance(trained.sde, Counted(trained.score_model))
    return guidance


def _check_weaker(trained: Trained, weak: ScoreModel, folder: str | None, labels: bool, values: bool) -> None:
    """Raises UserError if a weaker network takes other parts of the condition, or has not learned the given parts."""
    own, strong = weak.network.condition, trained.score_model.network.condition
    if own is None or weak.network.exact:
        return
    run = f"guidance.run={folder or trained.folder}"
    if (labels or values) and strong is not None and (own.labelled, own.valued) != (strong.labelled, strong.valued):
        raise UserError(
            f"{run}: its network takes other parts of the condition than that of {trained.folder}: train it with the "
            f"same network.label_dropout and network.condition_dropout"
        )
    if not own.knows(labels, values):
        parts = {"label_dropout": own.labelled and not labels, "condition_dropout": own.valued and not values}
        dropout = " ".join(f"network.{option}=0.1" for option, hidden in parts.items() if hidden)
        raise UserError(
            f"{run}: its network has not learned the score without the whole condition: train it with {dropout}"
        )


def _lacking(trained: Trained, node: Config) -> str:
    """Returns the message about a network that does not take the class."""
    network, fix = trained.config["network"], "train one with network.label_dropout=0.1"
    if not schema.takes(network, "label_dropout", trained.trust):
        fix = f"network={choice(network)} cannot take it: {fix} and network=mlp, scorenet or unet"
    return f"guidance={choice(node)}: the network of {trained.folder} does not take the class: {fix}"


def picture(units: Units, seen: Observation) -> Tensor:
    """Returns an observation as a picture in the user's units.

    If the measurement mixes entries of different scales, the picture is in the network's units.
    """
    affine = units.affine
    if seen.measurement.of_data:
        return seen.measurement.picture(seen.y)
    if affine is not None and seen.measurement.selects:
        return affine.decode(seen.measurement.picture(seen.y)[None])[0]
    if affine is None or not affine.uniform:
        return seen.measurement.picture(seen.y)
    return seen.measurement.picture(seen.y * affine.scale.flatten()[0] + seen.measurement(affine.shift[None]))


def agreement(units: Units, x: Tensor, seen: Observation) -> Metrics:
    """Returns the distances from samples to an observation, and from their mean to the truth in the network's units."""

    def rms(x: Tensor) -> float:
        return float(x.square().mean().sqrt())

    inner = units.encode(x)
    off, source = seen.measurement(inner) - seen.y, "the noise of the measurement"
    metrics: Metrics = {"residual": {"value": rms(off), "floor": None, "train": None, "floor_from": source}}
    if seen.truth is not None:
        truth, mean = units.encode(seen.truth), units.encode(x.mean(0, keepdim=True))
        metrics["residual"]["floor"] = rms(seen.measurement(truth) - seen.y)
        error, spread, source = rms(mean - truth), rms(inner - mean), "spread of the samples"
        metrics["error_of_mean"] = {"value": error, "floor": spread, "train": None, "floor_from": source}
    return metrics


def _steers(trained: Trained, node: Config, by: str) -> bool:
    """Returns True if the guidance takes the argument ``by``, such as ``label``, ``y`` or ``observed``."""
    return schema.takes(node, by, trained.trust)


def _classes(trained: Trained, node: Config | None, label: Label) -> Sequence[int | None]:
    """Returns the classes to steer towards, one after the other; None stands for no class."""
    if label is None:
        return [None]
    taken = trained.model.network.condition
    told = taken is not None and taken.labelled
    if node is None and not told:
        raise UserError(f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free")
    # Without a guidance that takes the class, the network is told it, such as beside a measurement.
    if node is not None and not (told or _steers(trained, node, "label") or _steers(trained, node, "given")):
        raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave out label=")
    if trained.classes is None:
        raise UserError(f"label={label}: the data of {trained.folder} have no labels: leave out label=")
    if label == "all":
        return range(trained.classes)
    try:
        return [trained.names.number(label, trained.classes)]
    except ValueError as error:
        raise UserError(str(error)) from None


def results(node: Config, observed: ArrayLike | None) -> Tensor | list[Tensor] | None:
    """Returns the user's result of a measurement, or the results of the measurements of a node, as tensors."""
    if observed is None or not isinstance(node.get("measurement"), list | tuple):
        return None if observed is None else array("observed", observed)
    if not isinstance(observed, list | tuple):
        raise UserError("observed: must be a list with the result of each measurement")
    return [array(f"observed[{i}]", own) for i, own in enumerate(observed)]


def _observation(trained: Trained, node: Config, given: Tensor | Sequence[Tensor] | None) -> Observation | None:
    """Returns the user's results, ``given`` or in ``guidance.path``, or else the results of measuring an image.

    Returns None if the guidance takes no measurement.
    """
    if not _steers(trained, node, "observed"):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} takes no measurement: leave out observed=")
        return None
    if not isinstance(node["measurement"], list | tuple):
        assert given is None or isinstance(given, Tensor)
        return _seen(trained, node, given)
    number = len(node["measurement"])
    if number < 2:
        raise UserError(f"guidance.measurement: is a list of {number}: give two or more nodes, or another guidance")
    columns = {"guidance.path": node["path"], "guidance.noise": node["noise"], "observed": given}
    for name, values in columns.items():
        if isinstance(values, list | tuple) and len(values) != number:
            raise UserError(f"{name}: is a list of {len(values)}: give {number}, one for each guidance.measurement")
    if isinstance(node["path"], str):
        raise UserError(f"guidance.path={node['path']}: must be a list of {number} files, one for each measurement")
    seen = [
        _seen(trained, {**node, **{key: of(node[key], i) for key in ("measurement", "noise", "path")}}, of(given, i), i)
        for i in range(number)
    ]
    stds = [each.noise.std for each in seen if each.noise.std is not None]
    if len(stds) < number:
        raise UserError("guidance.noise: several measurements need Gaussian noise: give a standard deviation for each")
    together = Together([each.measurement for each in seen], stds)
    return Observation(seen[0].truth, together.joined([each.y for each in seen]), together, Gaussian(1.0))


def of(values: Any, i: int) -> Any:  # noqa: ANN401
    """Returns the entry of the measurement with the number ``i``; a value that is no list is that of all of them."""
    return values[i] if isinstance(values, list | tuple) else values


def _seen(trained: Trained, node: Config, given: Tensor | None, number: int | None = None) -> Observation:
    """Returns the observation of one measurement. ``number`` is its place in a list of measurements."""
    which = "" if number is None else f"[{number}]"
    measurement, noise = _measurement(trained, node, which)
    name = f"observed{which}"
    if given is None:
        if node["path"] is None:
            return _measured_image(trained, node, measurement, noise, which)
        name = f"guidance.path={node['path']}"
        try:
            given = stored("guidance.path", node["path"])
        except ValueError as error:
            raise UserError(str(error)) from None
    shape = measurement(torch.zeros(1, *trained.units.shape, dtype=torch.float64)).shape[1:]
    y = given.double()[None]
    if y.shape[1:] != shape and y.shape[2:] == shape and y.shape[1]:
        measurement = Repeated(measurement, y.shape[1])
    elif y.shape[1:] != shape:
        raise UserError(
            f"{name}: has the shape {tuple(given.shape)}: give an array of shape {tuple(shape)}, or an array of "
            f"several of these for independent results of the same measurement"
        )
    _check_lowest(name, y, noise)
    return Observation(None, _encoded(trained.units, name, y, measurement), measurement, noise)


def _measurement(trained: Trained, node: Config, which: str) -> tuple[Measurement, Noise]:
    """Returns the measurement of a node, for points in the network's units, and its noise."""
    path, units = f"guidance.measurement{which}", trained.units
    measurement = construct({path: node["measurement"]}, path, trained.trust, shape=units.shape)
    try:
        noise = node.get("noise", STD)
        if isinstance(noise, Mapping):
            noise = construct({"guidance.noise": noise}, "guidance.noise", trained.trust)
        noise = as_noise(noise)
    except ValueError as error:
        raise UserError(f"guidance.{error}") from None
    if not (measurement.of_data or noise.of_data):
        linear_units(units, choice(node))
        return measurement, noise
    points = torch.randn(3, *units.shape, generator=generator("cpu", 0, "operator"), dtype=trained.dtype)
    check_operator(measurement, units.decode(points).to(trained.device, trained.dtype))
    return Decoded(measurement, units, trained.dtype), noise


def _check_lowest(name: str, y: Tensor, noise: Noise) -> None:
    """Raises UserError if a measurement, with or without noise, has numbers that the noise cannot have."""
    if bool((y < noise.lowest).any()):
        raise UserError(
            f"{name}: has a measurement of {float(y.min()):g}, and {type(noise).__name__.lower()} noise needs at least "
            f"{noise.lowest:g}: use guidance/noise=gaussian"
        )


def _encoded(units: Units, name: str, y: Tensor, measurement: Measurement) -> Tensor:
    """Returns the user's result of a measurement, ``(1, …)``, in the units of the measurement."""
    affine = units.affine
    if measurement.of_data or affine is None:
        return y
    zero, scale = measurement(affine.shift[None]), affine.scale.flatten()[0]
    if measurement.selects:
        scale = measurement(affine.scale[None])
    elif not affine.uniform:
        raise UserError(
            f"{name}: is in the units of the data, whose entries are scaled differently for the network: train a run "
            f"with dataset.standardize=false"
        )
    return (y - zero) / scale


def _measured_image(trained: Trained, node: Config, measurement: Measurement, noise: Noise, which: str) -> Observation:
    """Measures a held-out image, or a fresh image if none is held out. The noise is the same for every seed."""
    number, dataset = node["image"], trained.dataset
    images = dataset.held_out
    if images is None:
        images = dataset.draw(number + 1, generator("cpu", 0, "measured"))
    if images is None:
        raise UserError(
            f"guidance.image={number}: {unmeasured(dataset)}: give the result of a measurement with guidance.path="
        )
    if not 0 <= number < len(images):
        raise UserError(f"guidance.image={number}: no such image: choose from 0 to {len(images) - 1}")
    truth = images[number : number + 1].double()
    clean = measurement(trained.units.encode(truth))
    _check_lowest(f"guidance.image={number}", clean, noise)
    return Observation(truth, noise.draw(clean, generator("cpu", 0, f"measurement{which}", number)), measurement, noise)


def _matching(trained: Trained, other: Trained, folder: str, kind: type) -> ScoreModel | Likelihood:
    if not isinstance(other.model, kind):
        raise UserError(f"guidance.run={folder}: holds no {WANTED[kind]}")
    if (other.folder, other.step) == (trained.folder, trained.step):
        raise UserError(
            f"guidance.run={folder}: step {other.step} is the network that is sampled: give guidance.checkpoint= with "
            f"an earlier step, or the run of a weaker network"
        )
    same = other.config["dataset"]["_target_"] == trained.config["dataset"]["_target_"]
    told = other.model.network.condition
    if told is not None and told.valued and trained.conditions is not None:
        # The weaker network, or the regressor, is given the same numbers.
        named = other.names.conditions == trained.names.conditions and other.conditions is not None
        same = same and named and other.conditions.units.equals(trained.conditions.units)  # type: ignore[union-attr]
    if not (same and other.units.equals(trained.units)):
        raise UserError(f"guidance.run={folder}: was trained on other data than {trained.folder}: train on these data")
    model = copy.deepcopy(other.model).to(trained.device, trained.dtype)
    if other.config["sde"] == trained.config["sde"]:
        return model
    if other.config["sde"] != trained.trained_along or trained.sde.linear is None:
        raise UserError(
            f"guidance.run={folder}: was trained with another SDE than {trained.folder}: train it with the options "
            f"under sde: in {trained.folder}/config.yaml"
        )
    return model.along(trained.sde.linear)
