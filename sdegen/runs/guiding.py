"""Targets of samples: classes, conditions and guidances, planned from what a user asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
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
from sdegen.datasets import Dataset
from sdegen.datasets.fingerprint import difference
from sdegen.guidance.classes import AutoGuidance, Guidance
from sdegen.models.classifier import ClassifierModel
from sdegen.models.likelihood import Likelihood
from sdegen.models.regressor import RegressorModel
from sdegen.models.score import ScoreModel
from sdegen.runs import conditions
from sdegen.runs.conditions import DATA, Asked
from sdegen.runs.observations import Observation, observed
from sdegen.runs.trained import Trained
from sdegen.runs.unseen import Examples
from sdegen.sde.scores import Counted

Label = int | float | str | bool | None
"""Label of a class, as the data have it; ``all`` for all classes, None for no class."""
Load = Callable[[str | None, type], ScoreModel | Likelihood]
"""Function of the folder of a run, None for the run that is sampled, and of the kind of its model."""
WANTED = {
    ClassifierModel: "classifier: train one with objective=classification",
    RegressorModel: "regressor: train one with experiment=regressor",
    ScoreModel: "score: use another",
}
"""Kinds of models in the run of a guidance, with the fix if the run holds another kind."""


class Target(NamedTuple):
    """Class, condition and guidance of samples.

    Attributes:
        label: class of the samples; None for no class.
        condition: condition of the samples, ``(*)`` in the user's units; None for no condition.
        told: value that the network takes for both, or a value for each sample; None if it is told neither, or if the
            guidance tells it.
        guidance: guidance of the score; None for no guidance.
        name: the three as options of the command line, such as ``guidance=classifier, label=3``.
        rows: number of samples, if each has a class and a condition of its own; None if all have the same.
        node: node of the guidance; None for no guidance.
        of_data: True if the classes and conditions of the samples are those of points of the data, drawn by the seed.
    """

    label: int | None = None
    condition: Tensor | None = None
    told: Tensor | None = None
    guidance: Guidance | None = None
    name: str = ""
    rows: int | None = None
    node: Config | None = None
    of_data: bool = False

    @property
    def steers(self) -> bool:
        """True if the score is given a condition, or guided."""
        return self.told is not None or self.guidance is not None


UNSTEERED = Target()
"""Target of samples without a class, a condition and a guidance."""


OfData = Callable[[Dataset, int, int], tuple[Target, Examples]]
"""Function of a data set, the number of samples and a seed. It returns the target and the points of the data."""


class Plan(NamedTuple):
    """Targets of a sampling, one after the other.

    Attributes:
        targets: targets; there is at least one.
        seen: observation of the measurement of the guidance; None if there is none.
        of_data: function that makes the target of ``count`` samples, of which each has the condition of a point of the
            data; None if the user gave the conditions.
        all: target to which steps are fitted, with a row for each of ``targets``; None for a single target, for steps
            that are not fitted, and if the guidance takes one class for all samples.
    """

    targets: Sequence[Target]
    seen: Observation | None = None
    of_data: OfData | None = None
    all: Target | None = None


def planned(
    trained: Trained,
    node: Config | None,
    label: Label,
    given: Tensor | Sequence[Tensor] | None = None,
    other: Trained | None = None,
    condition: Asked = None,
    together: bool = False,
) -> Plan:
    """Returns the targets that a node of guidance, a label and conditions describe.

    ``given`` is the result of a measurement in the user's units, or a list with that of each measurement. ``other`` is
    the run that the node names, if this run is loaded already. If ``together`` is true, several conditions are those of
    the samples of one target, one for each sample. Raises UserError if the guidance, the label or the condition does
    not suit the model.
    """

    if node is not None:
        trained.check_sampler(f"guidance={choice(node)}")

    @cache
    def load(folder: str | None, kind: type) -> ScoreModel | Likelihood:
        which = "last" if node is None else node.get("checkpoint", "last")
        settings = {"device": str(trained.device), "precision": trained.precision, "trust": trained.trust}
        found = other
        if found is None or which != "last":
            try:
                found = Trained(Path(folder or trained.folder), which, **settings)  # type: ignore[arg-type]
            except UserError as error:
                fix = str(error).replace("checkpoint=", "guidance.checkpoint=")
                raise UserError(f"guidance.{'run' if folder else 'checkpoint'}: {fix}") from None
        return _matching(trained, found, folder or str(trained.folder), kind)

    if isinstance(condition, str) and condition == DATA:
        return _of_data(trained, node, label, load)
    pairs = _pairs(trained, node, label, condition)
    if condition is not None and trained.conditions is not None and not _steers(trained, node, "y"):
        conditions.check_taken(trained)
    seen = None if node is None else observed(trained, node, given)
    own: dict[str, object] = {}
    if seen is not None:
        own = {"observed": seen.y, "measurement": seen.measurement, "noise": seen.noise}
    if len(pairs) == 1:
        return Plan([_target(trained, node, *pairs[0], own, load)], seen)
    labels, values = ([part for part in column if part is not None] for column in zip(*pairs, strict=True))
    each = torch.tensor(labels) if labels else None, torch.stack(values) if values else None
    if together:
        return Plan([_target(trained, node, *each, own, load, len(pairs))], seen)
    targets = [_target(trained, node, *pair, own, load) for pair in pairs]
    if trained.sampler.grid != "fitted" or (labels and _steers(trained, node, "label")):
        return Plan(targets, seen)
    return Plan(targets, seen, all=_target(trained, node, *each, own, load, len(pairs)))


def _of_data(trained: Trained, node: Config | None, label: Label, load: Load) -> Plan:
    """Returns the plan of samples with the conditions of points of the data."""
    if label is not None:
        raise UserError(f"label={label}: condition=data takes the classes of the data, too: leave out label=")
    taken, steered = trained.model.network.condition, _steers(trained, node, "y")
    if node is not None and not (steered or _steers(trained, node, "given")):
        raise UserError(
            f"condition=data: guidance={choice(node)} takes no condition for each sample: give label= or condition="
        )
    if not steered and taken is None:
        conditions.check_taken(trained)
    labels, values = taken is not None and taken.labelled, steered or (taken is not None and taken.valued)

    def of_data(dataset: Dataset, count: int, seed: int) -> tuple[Target, Examples]:
        points = conditions.of_data(dataset, labels, values, count, seed)
        return _target(trained, node, points.y, points.c, {}, load, count)._replace(of_data=True), points

    # Build a target before the data are read, so that a mistake costs no time.
    sample = None if trained.conditions is None or not values else trained.conditions.low[None]
    _target(trained, node, torch.zeros(1, dtype=torch.int64) if labels else None, sample, {}, load, 1)
    return Plan([UNSTEERED], of_data=of_data)


def _pairs(
    trained: Trained, node: Config | None, label: Label, condition: Asked
) -> Sequence[tuple[int | None, Tensor | None]]:
    """Returns the classes and conditions of the targets; None for no class and for no condition."""
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


def _target(
    trained: Trained,
    node: Config | None,
    label: int | Tensor | None,
    condition: Tensor | None,
    own: Mapping[str, object],
    load: Load,
    rows: int | None = None,
) -> Target:
    """Returns the target of a class and a condition, or of those of each of ``rows`` samples.

    The network is told what no guidance steers towards.
    """
    taken, tells = trained.model.network.condition, _steers(trained, node, "given")
    told_label = label if tells or not _steers(trained, node, "label") else None
    values = None if _steers(trained, node, "y") else condition
    parts = (told_label is not None, values is not None)
    if node is None or any(parts):
        conditions.check_known(trained, *parts)
    told = conditions.told(taken, trained.conditions, told_label, values) if taken is not None and any(parts) else None
    name, guidance = [] if node is None else [f"guidance={choice(node)}"], None
    if node is not None:
        y = None if condition is None or trained.conditions is None else trained.conditions.encode(condition)
        y = None if y is None else y.reshape(*(() if rows is None else (rows,)), -1)
        if rows is not None and label is not None and _steers(trained, node, "label"):
            raise UserError(f"condition: guidance={choice(node)} takes one class for all samples: give one condition")
        guidance = _guidance(trained, node, label, {**own, "given": told, "y": y}, load)
        if isinstance(guidance, AutoGuidance):
            _check_weaker(trained, guidance.weak, node["run"], *parts)
    if rows is not None:
        return Target(
            None, None, None if tells else told, guidance, ", ".join([*name, f"{rows} conditions"]), rows, node
        )
    assert label is None or isinstance(label, int)
    name += [] if label is None else [f"label={trained.names.label(label)}"]
    if condition is not None:
        plain = condition.ndim == 1
        name.append(f"condition={[float(f'{number:g}') for number in condition] if plain else 'an array'}")
    return Target(label, condition, None if tells else told, guidance, ", ".join(name), node=node)


def _guidance(
    trained: Trained,
    node: Config,
    label: int | Tensor | None,
    own: Mapping[str, object],
    load: Load,
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
        other = ", or use guidance.scale=1" if guidance.conditional else ""
        raise UserError(
            f"guidance={choice(node)}: the network of {trained.folder} has learned no score without a condition: train "
            f"one with {_hiding(taken.labelled, taken.valued)}{other}"
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
        hidden = own.labelled and not labels, own.valued and not values
        parts = " and ".join(["class"] * hidden[0] + ["condition"] * hidden[1])
        fix = _hiding(*hidden)
        raise UserError(f"{run}: its network has learned no score without the {parts}: train it with {fix}")


def _hiding(labels: bool, values: bool) -> str:
    """Returns the options with which a training hides the class in some rows, or the numbers, or both."""
    return " ".join(["network.label_dropout=0.1"] * labels + ["network.condition_dropout=0.1"] * values)


def _lacking(trained: Trained, node: Config) -> str:
    """Returns the message about a network that does not take the class."""
    network, fix = trained.config["network"], "train one with network.label_dropout=0.1"
    if not schema.takes(network, "label_dropout", trained.trust):
        fix = f"network={choice(network)} cannot take it: {fix} and network=mlp, scorenet or unet"
    return f"guidance={choice(node)}: the network of {trained.folder} does not take the class: {fix}"


def _steers(trained: Trained, node: Config | None, by: str) -> bool:
    """Returns True if there is a guidance that takes the argument ``by``, such as ``label``, ``y`` or ``observed``."""
    return node is not None and schema.takes(node, by, trained.trust)


def _classes(trained: Trained, node: Config | None, label: Label) -> Sequence[int | None]:
    """Returns the classes to steer towards, one after the other; None stands for no class."""
    if label is None:
        return [None]
    if trained.classes is None:
        raise UserError(f"label={label}: the data of {trained.folder} have no labels: leave out label=")
    taken = trained.model.network.condition
    # Without a guidance that takes the class, the network is given it, such as beside a measurement.
    steers = taken is not None and taken.labelled or _steers(trained, node, "label") or _steers(trained, node, "given")
    if node is None and not steers:
        raise UserError(
            f"label={label}: the network of {trained.folder} does not take the class: add guidance=classifier and "
            f"guidance.run= with a classifier, or train a run with network.label_dropout=0.1"
        )
    if node is not None and not steers:
        raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave out label=")
    if label == "all":
        return range(trained.classes)
    try:
        return [trained.names.number(label, trained.classes)]
    except ValueError as error:
        raise UserError(str(error)) from None


def _matching(trained: Trained, other: Trained, folder: str, kind: type) -> ScoreModel | Likelihood:
    if not isinstance(other.model, kind):
        raise UserError(f"guidance.run={folder}: holds no {WANTED[kind]}")
    if (other.folder, other.step) == (trained.folder, trained.step):
        raise UserError(
            f"guidance.run={folder}: step {other.step} is the network that is sampled: give guidance.checkpoint= with "
            f"an earlier step, or the run of a weaker network"
        )
    same, prints = other.units.equals(trained.units), (trained.fingerprint, other.fingerprint)
    if other.config["dataset"] == trained.config["dataset"] and other.config["seed"] != trained.config["seed"]:
        # Another seed draws, or holds out, other points of the same data, but as many.
        prints = {**prints[0], "digest": ""}, {**prints[1], "digest": ""}
    found = difference(*prints)
    told = other.model.network.condition
    if told is not None and told.valued and trained.conditions is not None:
        # The weaker network, or the regressor, is given the same numbers.
        named = other.names.conditions == trained.names.conditions and other.conditions is not None
        same = same and named and other.conditions.units.equals(trained.conditions.units)  # type: ignore[union-attr]
    if found or not same:
        raise UserError(
            f"guidance.run={folder}: was trained on other data than {trained.folder}{f' ({found})' if found else ''}: "
            f"train on these data"
        )
    model = copy.deepcopy(other.model).to(trained.device, trained.dtype)
    if other.config["sde"] == trained.config["sde"]:
        return model
    if other.config["sde"] != trained.trained_along or trained.sde.linear is None:
        raise UserError(
            f"guidance.run={folder}: was trained with another SDE than {trained.folder}: train it with the options "
            f"under sde: in {trained.folder}/config.yaml"
        )
    return model.along(trained.sde.linear)
