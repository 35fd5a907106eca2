"""Guidance for a trained model: built from its node, and checked against the model and its data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.config.construction import construct
from sdegen.config.options import choice
from sdegen.config.rules import check_process
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import linear_units
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.runs.observation import Observation, observe
from sdegen.runs.trained import Trained

Node = Mapping[str, Any]


def build(
    trained: Trained, node: Node, label: int | None = None, observed: Tensor | None = None, other: Trained | None = None
) -> Guidance:
    """Returns the guidance that a node names, ready to steer a model.

    Args:
        trained: the model to steer.
        node: of the group ``guidance``.
        label: the class to steer towards, if it steers towards one.
        observed: the result of a measurement in the network's units, if it agrees with one.
        other: the run that the node names, if it is loaded already.

    Raises:
        UserError: it does not go with the model.
    """
    if steers(trained, node, "observed"):
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


def observation(trained: Trained, node: Node, given: Tensor | None = None) -> Observation | None:
    """Returns the observation that a guidance asks for; None if it asks for none.

    Args:
        trained: the model to steer.
        node: of the group ``guidance``.
        given: the result of a measurement, in the user's units, in place of what the node names.
    """
    if not steers(trained, node, "observed"):
        if given is not None:
            raise UserError(f"observed: guidance={choice(node)} agrees with no measurement: leave it out")
        return None
    name = "guidance.measurement"
    measurement = construct({name: node["measurement"]}, name, trained.trust, shape=trained.units.shape)
    return observe(trained.units, lambda: trained.dataset, node, measurement, given)


def check_label(trained: Trained, node: Node | None, label: int | Literal["all"] | None) -> None:
    """Raises UserError if a label has no meaning for a guidance and the data.

    Args:
        trained: the model to steer.
        node: of the guidance; None for the score ittrained.
        label: a class, ``all`` for each of them, None for none.
    """
    if label is None:
        return
    if node is None:
        raise UserError(f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free")
    if not steers(trained, node, "label"):
        raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave it out")
    if trained.classes is None:
        raise UserError(f"label={label}: the data of {trained.folder} have no labels")
    if label != "all" and label not in range(trained.classes):
        raise UserError(f"label={label} is no class of the data: choose from 0 to {trained.classes - 1}")


def steers(trained: Trained, node: Node, by: str) -> bool:
    """Returns True if the guidance of a node steers ``by`` a ``label``, or by what was ``observed``."""
    return schema.takes(node, by, trained.trust)


def _loaded(trained: Trained, folder: str) -> Trained:
    """Returns another run, in the precision of a model and on its device."""
    precision: Literal["float32", "float64"] = "float64" if trained.dtype == torch.float64 else "float32"
    return Trained(folder, device=str(trained.device), precision=precision, trust=trained.trust)


def _matching(trained: Trained, other: Trained, folder: str, kind: type) -> ScoreModel | ClassifierModel:
    """Returns the model of another run; raises UserError if it is not of a kind, or of other data or another SDE."""
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
