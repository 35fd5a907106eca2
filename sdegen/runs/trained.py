"""A trained model loaded from a checkpoint: its connected parts and its training data."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sdegen.config.assembly import known_by
from sdegen.config.compose import Config
from sdegen.config.construction import connect, construct, make_network, with_steps_of_chain
from sdegen.config.options import GROUPS, SAMPLE, TRAIN, check
from sdegen.config.rules import check_process
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset, restored
from sdegen.datasets.fingerprint import difference
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import files
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.sampling import on_cpu
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE, Score
from sdegen.training.trainer import DTYPES, find_device

LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""The groups that sampling needs."""

Weights = Literal["ema", "raw"]
Precision = Literal["float32", "float64"]


class Trained:
    """Trained model, reloaded from a run's folder: see :func:`sdegen.load` for the arguments.

    Attributes:
        folder: the run's folder.
        config: its configuration, plain data.
        step: step of the checkpoint.
        sde: the forward process.
        model: the trained score in the network's units, as samplers use it, or the trained classifier.
        sampler: the sampler it will use.
        units: conversion between the network's units and the user's.
        classes: number of classes of the data; None if they have no labels.
        weights: the weights that are loaded, ``ema`` or ``raw``.
        precision: precision of the computation.
        trust: modules whose classes its configuration may name.
    """

    def __init__(
        self,
        run: Path,
        checkpoint: checkpoints.Which = "last",
        weights: Weights = "ema",
        device: str = "auto",
        precision: Precision = "float32",
        trust: Trust = (),
        nodes: Mapping[str, Any] | None = None,
    ) -> None:
        settings = {"checkpoint": checkpoint, "weights": weights, "device": device, "precision": precision}
        check(settings, (), SAMPLE, trust)
        saved, self.folder = checkpoints.read(run, checkpoint), files.resolve(run)
        checkpoints.examine(self.folder, saved, trust)
        self.config, self.trust = _replaced(saved.config, nodes or {}, trust), trust
        self.step, self.weights, self.precision, self.dtype = saved.step, weights, precision, DTYPES[precision]
        try:
            self.device = find_device(device)
        except ValueError as error:
            raise UserError(str(error)) from None
        self._data = saved.data
        self.units, self.classes = restored(saved.units), saved.classes
        self.sde: SDE = construct(self.config, "sde", trust)
        self.sampler: Sampler = construct(self.config, "sampler", trust)
        self.model = self._model(saved).to(self.device, self.dtype).eval()

    def _model(self, saved: Checkpoint) -> ScoreModel | ClassifierModel:
        network_class = schema.resolve(self.config["network"]["_target_"], self.trust)
        check_process(self.config, {"sampler": self.sampler, "network": network_class}, self.trust)
        exact = network_class.exact  # type: ignore[attr-defined]
        # Load the data only for an exact score, which needs their distribution: their file may be gone.
        law = self.dataset.encoded_law if exact else None
        supplied = {"shape": self.units.shape, "law": law, "sde": self.sde, "classes": self.classes}
        network = make_network(self.config, self.trust, **supplied)
        if not exact:
            load_weights(network, saved.ema if self.weights == "ema" else saved.weights)
        parametrization = construct(self.config, "parametrization", self.trust, moments=saved.known_moments())
        return connect(network, parametrization, self.sde)

    @cached_property
    def dataset(self) -> Dataset:
        """The training data, made or read again; raises UserError if their file is gone or holds other data."""
        dataset: Dataset = construct(self.config, "dataset", self.trust, seed=self.config["seed"])
        if found := difference(self._data, known_by(self.config, dataset)):
            raise UserError(f"the data are no longer those that {self.folder} was trained on: {found}")
        dataset.units = self.units
        return dataset

    @property
    def score_model(self) -> ScoreModel:
        """The trained score; raises UserError if the run holds a classifier."""
        if not isinstance(self.model, ScoreModel):
            raise UserError(
                f"{self.folder}: holds a classifier, not a score: use it to guide another run, with guidance.run="
            )
        return self.model

    def score_on_cpu(self) -> Score:
        """Returns the trained score as a function of tensors on the CPU, in the network's units."""
        return on_cpu(self.score_model, self.device, self.dtype)

    def weights_used(self) -> str:
        """Returns the name of the weights that are loaded, such as ``ema weights of step 500``."""
        return "exact score" if self.model.network.exact else f"{self.weights} weights of step {self.step}"


def _replaced(own: Config, nodes: Mapping[str, Any], trust: Trust) -> Config:
    """Returns the checked configuration of a checkpoint in which nodes are replaced."""
    config = {**own, **nodes}
    plain_options = {key: value for key, value in config.items() if key not in GROUPS}
    config |= check({**{group: config[group] for group in LOADED}, **plain_options}, LOADED, TRAIN, trust)
    network = schema.resolve(config["network"]["_target_"], trust)
    if config["network"] != own["network"] and not network.exact:  # type: ignore[attr-defined]
        raise UserError("network: a checkpoint's weights belong to its own network; only network=oracle can replace it")
    return {**config, "sampler": with_steps_of_chain(config["sampler"], config["sde"])}


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Loads weights into a network; raises UserError if the network has other names or shapes."""
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 500, placeholder=" …")
        raise UserError(f"the checkpoint's weights do not fit its network: {reason}") from None
