"""A trained model that is loaded from a checkpoint, with its parts and its training data."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import textwrap
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor

from sdegen.config.components import known_by, some
from sdegen.config.compose import Config
from sdegen.config.construction import connect, construct, make_network, measured, with_steps_of_chain
from sdegen.config.options import GROUPS, SAMPLE, TRAIN, check, choice
from sdegen.config.rules import NOUNS, check_map, check_process, check_times
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset, Description, restored, restored_conditions
from sdegen.datasets.fingerprint import difference
from sdegen.models.likelihood import Likelihood
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import files
from sdegen.runs.averages import Averages
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.sampling import class_score
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE, LinearSDE, Score
from sdegen.training.trainer import DTYPES, find_device

log = logging.getLogger("sdegen")

LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""Groups that sampling needs."""
DOUBTFUL = 0.1
"""KL divergence of a prior from p_T, in nats a coordinate, above which a change of path is a warning."""

Result = TypeVar("Result")
Weights = Literal["ema", "raw"]
Precision = Literal["float32", "float64"]


class Trained:
    """Trained model, reloaded from a run's folder: see :func:`sdegen.load` for the arguments.

    Attributes:
        folder: the run's folder.
        config: configuration of the run, plain data.
        checkpoint: checkpoint as it was asked for: a step, ``last`` or ``best``.
        step: step of the checkpoint.
        sde: forward process of the samples.
        trained_along: node of the forward process of the training.
        model: trained score in the network's units, or trained classifier or regressor.
        sampler: default sampler for new samples.
        units: conversion between the network's units and the user's units.
        classes: number of classes of the data; None if the data have no labels.
        fingerprint: fingerprint of the training data: see :func:`sdegen.datasets.fingerprint.fingerprint`.
        conditions: units and range of the conditions of the data; None if the data have no conditions.
        names: names of the columns, of the classes and of the conditions: see :class:`sdegen.datasets.Description`.
        weights: loaded weights, ``ema`` or ``raw``.
        ema: width of the loaded average; None for the average of ``trainer.ema``.
        precision: precision of the computation.
        trust: modules whose classes the configuration may name.
    """

    def __init__(
        self,
        run: Path,
        checkpoint: checkpoints.Which = "last",
        weights: Weights = "ema",
        ema: float | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        trust: Trust = (),
        nodes: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {"checkpoint": checkpoint, "weights": weights, "ema": ema, "device": device, "precision": precision}
        check(settings, (), SAMPLE, trust)
        if ema is not None and weights != "ema":
            raise UserError(f"ema={ema:g}: is a width of the averaged weights: leave out weights={weights}, or ema=")
        saved, self.folder = checkpoints.read(run, checkpoint), files.resolve(run)
        checkpoints.examine(self.folder, saved, trust)
        self.config, self.trust = _replaced(saved.config, nodes or {}, trust), trust
        self.checkpoint, self.step, self.weights, self.ema = checkpoint, saved.step, weights, ema
        self.precision, self.dtype = precision, DTYPES[precision]
        try:
            self.device = find_device(device)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.fingerprint = saved.data
        self.units, self.classes = restored(saved.units), saved.classes
        self.conditions = restored_conditions(saved.conditions)
        columns, classes, told = (tuple(saved.names[kind]) for kind in ("columns", "classes", "conditions"))
        self.names = Description(columns, classes, conditions=told)
        self._shared: dict[Hashable, Any] = {}
        self.trained_along: Config = saved.config["sde"]
        if "auto" in self.config["sde"].values():
            self.config["sde"] = measured(self.config["sde"], self.units.encode(some(self.dataset)), trust)
        self.sde: SDE = construct(self.config, "sde", trust)
        self.sampler: Sampler = construct(self.config, "sampler", trust)
        self.model = self._model(saved).to(self.device, self.dtype).eval()

    def _model(self, saved: Checkpoint) -> ScoreModel | Likelihood:
        network_class = schema.resolve(self.config["network"]["_target_"], self.trust)
        check_process(self.config, {"sampler": self.sampler, "network": network_class}, self.trust)
        exact = network_class.exact  # type: ignore[attr-defined]
        # Only an exact score needs the distribution of the data. Otherwise do not load the data: the file may be gone.
        law = self.dataset.encoded_law if exact else None
        moved = not exact and self.config["sde"] != self.trained_along
        own = construct({"sde": self.trained_along}, "sde", self.trust) if moved else self.sde
        # The network is evaluated at points of the path of the training, whatever the path of the samples.
        network = make_network(self.config, self.trust, law=law, sde=own, **saved.supplied())
        if not exact:
            load_weights(network, self._weights(saved))
        parametrization = construct(self.config, "parametrization", self.trust, moments=saved.known_moments())
        model = connect(network, parametrization, own)
        if not moved:
            return model
        self.sde = _shared(self.sde, own, (choice(self.config["sde"]), choice(self.trained_along)))
        return model.along(self.sde)

    def _weights(self, saved: Checkpoint) -> dict[str, Any]:
        if self.ema is not None:
            return Averages(self.folder, saved).at(self.ema)
        return saved.ema if self.weights == "ema" else saved.weights

    def check_sampler(self, guidance: str = "") -> None:
        """Raises UserError if the sampler does not fit the process, the model or the guidance with a name, if any.

        A sampler that follows a flow map needs a model that has one, and no guidance steers a flow map.
        """
        if guidance and self.sampler.maps:
            raise UserError(
                f"{guidance} steers a score, and sampler={choice(self.config['sampler'])} follows a map that was "
                f"trained without it: use another sampler, such as sampler=adams"
            )
        check_times(self.sampler, self.sde)
        fix = f"use another sampler, or train a flow map with objective=flow_map objective.run={self.folder}"
        check_map(self.config, self.sampler, self.model, fix)

    @property
    def dataset(self) -> Dataset:
        """Training data, generated or read again; raises UserError if the file is gone or contains other data."""
        return self.once("dataset", self._read_dataset)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Returns a result that does not depend on the sampler. It is computed once for this run and its copies."""
        if key not in self._shared:
            self._shared[key] = compute()
        result: Result = self._shared[key]
        return result

    @property
    def digest(self) -> str:
        """Hash of the tensors of the model."""
        return self.once("digest", self._hash)

    def _hash(self) -> str:
        found = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if isinstance(value, Tensor):
                found.update(name.encode())
                found.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def _read_dataset(self) -> Dataset:
        dataset: Dataset = construct(self.config, "dataset", self.trust, seed=self.config["seed"])
        if found := difference(self.fingerprint, known_by(self.config, dataset)):
            raise UserError(
                f"dataset: the data have changed since {self.folder} was trained: {found}: restore the data, or "
                f"train a new run"
            )
        dataset.units = self.units
        return dataset

    @property
    def score_model(self) -> ScoreModel:
        """Trained score; raises UserError if the run holds a classifier or a regressor."""
        if not isinstance(self.model, ScoreModel):
            raise UserError(
                f"{self.folder}: holds a {NOUNS[self.model.network.predicts]}, not a score: use it to guide another "
                f"run, with guidance.run="
            )
        return self.model

    def score_on_cpu(self, label: int | None = None) -> Score:
        """Returns the trained score, or the score of a class, as a function of tensors on the CPU, in its units."""
        return class_score(self.score_model, label, self.device, self.dtype)

    def weighing(self, state: Mapping[str, Any], weights: Weights, ema: float | None = None) -> Self:
        """Returns a copy of this run with other weights of the same checkpoint."""
        other = copy.copy(self)
        other.weights, other.ema, other.model = weights, ema, copy.deepcopy(self.model)
        load_weights(other.model.network, state)
        # Leave out what was computed with the weights.
        other._shared = {"dataset": self.dataset, "numbers": self.once("numbers", dict)}
        return other

    def weights_used(self) -> str:
        """Returns the name of the weights that are loaded, such as ``ema weights of step 500``."""
        if self.model.network.exact:
            return "exact score"
        along = f" for sde={choice(self.trained_along)}" if self.config["sde"] != self.trained_along else ""
        width = "" if self.ema is None else f" of width {self.ema:g}"
        return f"{self.weights} weights{width} of step {self.step}{along}"


def _replaced(own: Config, nodes: Mapping[str, Any], trust: Trust) -> Config:
    """Returns the checked configuration of a checkpoint in which nodes are replaced."""
    config = {**own, **nodes}
    plain_options = {key: value for key, value in config.items() if key not in GROUPS}
    config |= check({**{group: config[group] for group in LOADED}, **plain_options}, LOADED, TRAIN, trust)
    if "sde" in nodes:
        check({"sde": own["sde"]}, ("sde",), {}, trust)
        if config["sde"]["_target_"] == own["sde"]["_target_"]:
            # The run has stored numbers in place of auto.
            stored = {key: own["sde"].get(key, value) for key, value in config["sde"].items() if value == "auto"}
            config["sde"] = {**config["sde"], **stored}
    network = schema.resolve(config["network"]["_target_"], trust)
    if config["network"] != own["network"] and not network.exact:  # type: ignore[attr-defined]
        raise UserError("network: the weights of a checkpoint fit only its own network: use network=run or oracle")
    if config["sde"] != own["sde"]:
        for node in (own["sde"], config["sde"]):
            chain = "a chain" if "levels" in node else ""
            if why := chain or ("" if issubclass(schema.resolve(node["_target_"], trust), LinearSDE) else "not linear"):
                raise UserError(
                    f"sde={choice(config['sde'])}: the network was trained with sde={choice(own['sde'])}, and a change "
                    f"of path needs linear SDEs in continuous time, but sde={choice(node)} is {why}: use sde=run"
                )
    return {**config, "sampler": with_steps_of_chain(config["sampler"], config["sde"])}


def _shared(sde: SDE, trained: SDE, names: tuple[str, str]) -> LinearSDE:
    """Returns a process, cut to the noise-to-signal ratios of the process of the training. Logs the range.

    Raises:
        UserError: the processes have no ratios in common.
    """
    assert sde.linear is not None and trained.linear is not None
    name, before = names
    cut, own = sde.linear.within(trained.linear), trained.linear.within(sde.linear)
    if not cut.eps < cut.T:
        raise UserError(
            f"sde={name}: has no noise-to-signal ratios in common with sde={before}: its σ/α are {_range(sde.linear)}, "
            f"and those of the training {_range(trained.linear)}: change its options"
        )
    log.info(
        f"sde={name} with a network for sde={before}: σ/α {_range(cut)}, which both have, at t from {cut.eps:.3g} to "
        f"{cut.T:.4g}"
    )
    # The same points have the same x/α on both paths.
    stds = [one.prior_std / float(one.alpha(torch.tensor(one.T, dtype=torch.float64))) for one in (cut, own)]
    if not math.isclose(*stds, rel_tol=1e-3):
        log.info(
            f"the prior of x/α at the largest noise has the standard deviation {stds[0]:.4g} for sde={name}, and "
            f"{stds[1]:.4g} for sde={before}"
        )
    if (gap := cut.prior_gap(1.0, 1)) > max(DOUBTFUL, 2 * trained.linear.prior_gap(1.0, 1)):
        log.warning(
            f"sde={name}: the noise at its end does not hide the data: the KL divergence of its prior from p_T is up "
            f"to {gap:.2g} nats in each coordinate of variance 1: choose options with a larger σ/α"
        )
    return cut


def _range(sde: LinearSDE) -> str:
    """Returns the range of σ/α in words."""
    first, last = (0.5 * sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64))).exp().tolist()
    return f"from {first:.3g} to {last:.4g}"


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a network; raises UserError if the names or shapes of the weights do not fit."""
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 500, placeholder=" …")
        raise UserError(
            f"the weights of the checkpoint do not fit its network: {reason}: use the version of the network that was "
            f"trained"
        ) from None
