"""Guidance for a trained model, the measurements that samples are to agree with, and how well they agree."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen.config.construction import construct
from sdegen.config.options import choice
from sdegen.config.rules import check_process
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Affine, Units
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement, array, linear_units
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.runs.trained import Trained

Node = Mapping[str, Any]


class Observation(NamedTuple):
    """A measurement and its result.

    Attributes:
        truth: the image that was measured, ``(1, *)`` in the user's units; None where the result is the user's own.
        y: the result, ``(1, …)`` in the network's units.
        measurement: the linear map.
    """

    truth: Tensor | None
    y: Tensor
    measurement: Measurement


def build(
    trained: Trained, node: Node, label: int | None = None, observed: Tensor | None = None, other: Trained | None = None
) -> Guidance:
    """Returns the guidance that a node names, ready to steer a model; raises UserError if it does not suit the model.

    It steers towards the class ``label``, or towards what was ``observed``, in the network's units. The ``other`` run
    is the one that the node names, if it is loaded already.
    """
    if _steers(trained, node, "observed"):
        linear_units(trained.units, choice(node))

    def load(folder: str, kind: type) -> ScoreModel | ClassifierModel:
        return _matching(trained, other or _loaded(trained, folder), folder, kind)

    supplied = {"label": label, "observed": observed, "shape": trained.units.shape, "load": load}
    guidance: Guidance = construct({"guidance": node}, "guidance", trained.trust, **supplied)
    if guidance.conditional and trained.model.network.label_dropout is None:
        raise UserError(
            f"guidance={choice(node)}: the network of {trained.folder} does not take the class: train one with "
            f"network.label_dropout=0.1, as experiment=digits_conditional does"
        )
    check_process({**trained.config, "guidance": node}, {"guidance": guidance}, trained.trust)
    return guidance


def check_label(trained: Trained, node: Node | None, label: int | Literal["all"] | None) -> None:
    """Raises UserError if a guidance, or the data, have no such label; ``all`` stands for each of them."""
    if label is None:
        return
    if node is None:
        raise UserError(f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free")
    if not _steers(trained, node, "label"):
        raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave it out")
    if trained.classes is None:
        raise UserError(f"label={label}: the data of {trained.folder} have no labels")
    if label != "all" and label not in range(trained.classes):
        raise UserError(f"label={label} is no class of the data: choose from 0 to {trained.classes - 1}")


def observation(trained: Trained, node: Node, given: Tensor | None = None) -> Observation | None:
    """Returns the observation that a guidance asks for; None if it asks for none.

    It is the user's own result, ``given`` or in the file ``guidance.path``, in the user's units, or the measurement of
    the held-out image ``guidance.image``, whose noise is the same for every seed of the samples.

    Raises:
        UserError: there is no such image or file, or it does not have the shape of a result.
    """
    if not _steers(trained, node, "observed"):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} agrees with no measurement: leave it out")
        return None
    name = "guidance.measurement"
    measurement = construct({name: node["measurement"]}, name, trained.trust, shape=trained.units.shape)
    affine = linear_units(trained.units, choice(node))
    if given is not None:
        return _own_result(affine, measurement, given, "observed")
    if node["path"] is None:
        return _measured_image(trained, node, measurement)
    name = f"guidance.path={node['path']}"
    try:
        values = array(node["path"])
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return _own_result(affine, measurement, values, name)


def picture(units: Units, seen: Observation) -> Tensor:
    """Returns an observation as a picture, in the user's units if they have one scale, else in the network's."""
    affine = units.affine
    if affine is None or not affine.uniform:
        return seen.measurement.picture(seen.y)
    return seen.measurement.picture(seen.y * affine.scale.flatten()[0] + seen.measurement(affine.shift[None]))


def agreement(units: Units, x: Tensor, seen: Observation) -> Metrics:
    """Returns how far samples are from an observation, and their mean from the truth, in the network's units."""
    inner = units.encode(x)
    off, source = seen.measurement(inner) - seen.y, "the noise of the measurement"
    found: Metrics = {"residual": {"value": _rms(off), "floor": None, "train": None, "floor_from": source}}
    if seen.truth is not None:
        truth, mean = units.encode(seen.truth), units.encode(x.mean(0, keepdim=True))
        found["residual"]["floor"] = _rms(seen.measurement(truth) - seen.y)
        error, spread = _rms(mean - truth), _rms(inner - mean)
        found["error_of_mean"] = {"value": error, "floor": spread, "train": None, "floor_from": "spread of the samples"}
    return found


def _steers(trained: Trained, node: Node, by: str) -> bool:
    """Returns True if the guidance takes what it steers by: a ``label``, or what was ``observed``."""
    return schema.takes(node, by, trained.trust)


def _loaded(trained: Trained, folder: str) -> Trained:
    """Returns another run, in the precision of a model and on its device."""
    precision: Literal["float32", "float64"] = "float64" if trained.dtype == torch.float64 else "float32"
    return Trained(Path(folder), "last", "ema", str(trained.device), precision, trained.trust)


def _matching(trained: Trained, other: Trained, folder: str, kind: type) -> ScoreModel | ClassifierModel:
    """Returns another run's model; raises UserError if it is of the wrong kind, of other data or of another SDE."""
    if not isinstance(other.model, kind):
        wanted = "classifier: train one with objective=classification" if kind is ClassifierModel else "score"
        raise UserError(f"guidance.run={folder}: holds no {wanted}")
    same = other.config["dataset"]["_target_"] == trained.config["dataset"]["_target_"]
    if not (same and other.units.equals(trained.units)):
        raise UserError(f"guidance.run={folder}: was trained on other data than {trained.folder}: train it on the same")
    if other.config["sde"] != trained.config["sde"]:
        raise UserError(
            f"guidance.run={folder}: was trained with another SDE than {trained.folder}: train it with the options "
            f"under sde: in {trained.folder}/config.yaml"
        )
    return copy.deepcopy(other.model).to(trained.device, trained.dtype)


def _own_result(affine: Affine, measurement: Measurement, values: Tensor, name: str) -> Observation:
    """Returns the observation of a result that the user has, in the user's units."""
    y, zero = values.double()[None], measurement(affine.shift[None])
    if y.shape != zero.shape:
        raise UserError(f"{name}: must have the shape {tuple(zero.shape[1:])}, and has {tuple(y.shape[1:])}")
    if not affine.uniform:
        raise UserError(
            f"{name}: is in the units of the data, whose columns are scaled differently for the network: train a run "
            f"with dataset.standardize=false"
        )
    return Observation(None, (y - zero) / affine.scale.flatten()[0], measurement)


def _measured_image(trained: Trained, node: Node, measurement: Measurement) -> Observation:
    """Returns the observation of a held-out image, or of a fresh draw where nothing is held out."""
    number, dataset = node["image"], trained.dataset
    images = dataset.held_out
    if images is None:
        images = dataset.draw(number + 1, generator("cpu", 0, "measured"))
    if images is None:
        raise UserError(f"guidance.image={number}: {unmeasured(dataset)}: give what was measured by guidance.path=")
    if not 0 <= number < len(images):
        raise UserError(f"guidance.image={number}: choose from 0 to {len(images) - 1}")
    truth = images[number : number + 1].double()
    y = measurement(trained.units.encode(truth))
    noise = torch.randn(y.shape, generator=generator("cpu", 0, "measurement", number), dtype=y.dtype)
    return Observation(truth, y + node["noise"] * noise, measurement)


def _rms(x: Tensor) -> float:
    """Returns the root mean square of all entries."""
    return float(x.square().mean().sqrt())
