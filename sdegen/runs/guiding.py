"""Guidance of a trained model, the measurements that guided samples agree with, and metrics of this agreement."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement, array, linear_units
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.runs import conditions
from sdegen.runs.conditions import DATA, Asked
from sdegen.runs.trained import Trained

Label = int | float | str | bool | None
"""Label of a class, as the data have it; ``all`` for all classes, None for no class."""


class Observation(NamedTuple):
    """A measurement and its result.

    Attributes:
        truth: measured image, ``(1, *)`` in the user's units; None if the user gave the result.
        y: result of the measurement, ``(1, …)`` in the network's units.
        measurement: linear map.
    """

    truth: Tensor | None
    y: Tensor
    measurement: Measurement


class Target(NamedTuple):
    """What samples are to be.

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
    given: Tensor | None = None,
    other: Trained | None = None,
    condition: Asked = None,
) -> Plan:
    """Returns the targets that a node of guidance, a label and conditions describe.

    ``given`` is the result of a measurement, in the user's units. ``other`` is the run that the node names, if this run
    is loaded already. Raises UserError if the guidance, the label or the condition does not suit the model.
    """
    pairs, of_data = _pairs(trained, node, label, condition), isinstance(condition, str) and condition == DATA
    if node is None:
        targets = [Target(one, c, _told(trained, one, c, of_data), None) for one, c in pairs]
        return Plan(targets, None)
    seen = _observation(trained, node, given)
    observed = None if seen is None else seen.y

    @cache
    def load(folder: str, kind: type) -> ScoreModel | ClassifierModel:
        settings = {"device": str(trained.device), "precision": trained.precision, "trust": trained.trust}
        return _matching(trained, other or Trained(Path(folder), **settings), folder, kind)  # type: ignore[arg-type]

    targets = []
    for one, c in pairs:
        tells = _steers(trained, node, "given")
        told = _told(trained, one if tells or not _steers(trained, node, "label") else None, c, of_data)
        guidance = _guidance(trained, node, one, observed, load, told)
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


def _told(trained: Trained, label: int | None, condition: Tensor | None, of_data: bool) -> Tensor | None:
    """Returns the value that the network takes for a class and a condition; None if both are None.

    If ``of_data`` is true, the network is told the conditions of unseen points later. Raises UserError if the network
    has not learned the score given just these parts.
    """
    taken = trained.model.network.condition
    if not of_data:
        conditions.check_known(trained, label is not None, condition is not None)
    if taken is None or (label is None and condition is None):
        return None
    return conditions.told(taken, trained.conditions, None if label is None else torch.tensor(label), condition)


def _guidance(
    trained: Trained,
    node: Config,
    label: int | None,
    observed: Tensor | None,
    load: Callable[[str, type], ScoreModel | ClassifierModel],
    told: Tensor | None,
) -> Guidance:
    """Returns the guidance towards a class, towards ``observed``, a result in the network's units, or what is told."""
    if _steers(trained, node, "observed"):
        linear_units(trained.units, choice(node))
    supplied = {"label": label, "given": told, "observed": observed, "shape": trained.units.shape, "load": load}
    taken = trained.model.network.condition
    kind: type[Guidance] = schema.resolve(node["_target_"], trained.trust)
    if kind.conditional and taken is None:
        network = trained.config["network"]
        fix = "train one with network.label_dropout=0.1"
        if not schema.takes(network, "label_dropout", trained.trust):
            fix = f"network={choice(network)} cannot take it: {fix} and network=mlp, scorenet or unet"
        raise UserError(f"guidance={choice(node)}: the network of {trained.folder} does not take the class: {fix}")
    guidance: Guidance = construct({"guidance": node}, "guidance", trained.trust, **supplied)
    if guidance.contrasts and taken is not None and conditions.needs_one(trained):
        parts = {"label_dropout": taken.labelled, "condition_dropout": taken.valued}
        dropout = " ".join(f"network.{option}=0.1" for option, has in parts.items() if has)
        raise UserError(
            f"guidance={choice(node)}: the network of {trained.folder} has learned no score without a condition: train "
            f"one with {dropout}, or use guidance.scale=1"
        )
    check_process({**trained.config, "guidance": node}, {"guidance": guidance}, trained.trust)
    return guidance


def picture(units: Units, seen: Observation) -> Tensor:
    """Returns an observation as a picture in the user's units.

    If the measurement mixes entries of different scales, the picture is in the network's units.
    """
    affine = units.affine
    if affine is not None and seen.measurement.selects:
        return affine.decode(seen.measurement.picture(seen.y)[None])[0]
    if affine is None or not affine.uniform:
        return seen.measurement.picture(seen.y)
    return seen.measurement.picture(seen.y * affine.scale.flatten()[0] + seen.measurement(affine.shift[None]))


def agreement(units: Units, x: Tensor, seen: Observation) -> Metrics:
    """Returns the distances from samples to an observation and from their mean to the truth, in the network's units."""

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
    """Returns True if the guidance takes the argument ``by``, which is ``label`` or ``observed``."""
    return schema.takes(node, by, trained.trust)


def _classes(trained: Trained, node: Config | None, label: Label) -> Sequence[int | None]:
    """Returns the classes to steer towards, one after the other; None stands for no class."""
    if label is None:
        return [None]
    taken = trained.model.network.condition
    if node is None and (taken is None or not taken.labelled):
        raise UserError(f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free")
    if node is not None and not (_steers(trained, node, "label") or _steers(trained, node, "given")):
        raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave out label=")
    if trained.classes is None:
        raise UserError(f"label={label}: the data of {trained.folder} have no labels: leave out label=")
    if label == "all":
        return range(trained.classes)
    try:
        return [trained.names.number(label, trained.classes)]
    except ValueError as error:
        raise UserError(str(error)) from None


def _observation(trained: Trained, node: Config, given: Tensor | None) -> Observation | None:
    """Returns the user's result, ``given`` or in ``guidance.path``, or else the result of measuring an image.

    Returns None if the guidance takes no measurement.
    """
    if not _steers(trained, node, "observed"):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} takes no measurement: leave out observed=")
        return None
    path = "guidance.measurement"
    measurement = construct({path: node["measurement"]}, path, trained.trust, shape=trained.units.shape)
    affine, name = linear_units(trained.units, choice(node)), "observed"
    if given is None:
        if node["path"] is None:
            return _measured_image(trained, node, measurement)
        name = f"guidance.path={node['path']}"
        try:
            given = array("guidance.path", node["path"])
        except ValueError as error:
            raise UserError(str(error)) from None
    y, zero, scale = given.double()[None], measurement(affine.shift[None]), affine.scale.flatten()[0]
    if y.shape != zero.shape:
        raise UserError(f"{name}: has the shape {tuple(y.shape[1:])}: give an array of shape {tuple(zero.shape[1:])}")
    if measurement.selects:
        scale = measurement(affine.scale[None])
    elif not affine.uniform:
        raise UserError(
            f"{name}: is in the units of the data, whose entries are scaled differently for the network: train a run "
            f"with dataset.standardize=false"
        )
    return Observation(None, (y - zero) / scale, measurement)


def _measured_image(trained: Trained, node: Config, measurement: Measurement) -> Observation:
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
    y = measurement(trained.units.encode(truth))
    noise = torch.randn(y.shape, generator=generator("cpu", 0, "measurement", number), dtype=y.dtype)
    return Observation(truth, y + node["noise"] * noise, measurement)


def _matching(trained: Trained, other: Trained, folder: str, kind: type) -> ScoreModel | ClassifierModel:
    if not isinstance(other.model, kind):
        wanted = (
            "classifier: train one with objective=classification" if kind is ClassifierModel else "score: use another"
        )
        raise UserError(f"guidance.run={folder}: holds no {wanted}")
    same = other.config["dataset"]["_target_"] == trained.config["dataset"]["_target_"]
    if not (same and other.units.equals(trained.units)):
        raise UserError(f"guidance.run={folder}: was trained on other data than {trained.folder}: train on these data")
    if other.config["sde"] != trained.config["sde"]:
        raise UserError(
            f"guidance.run={folder}: was trained with another SDE than {trained.folder}: train it with the options "
            f"under sde: in {trained.folder}/config.yaml"
        )
    return copy.deepcopy(other.model).to(trained.device, trained.dtype)
