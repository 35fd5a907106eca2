"""The parts of a run, wired, and the training of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sdegen.config.compose import Config
from sdegen.datasets import Dataset
from sdegen.datasets.fingerprint import fingerprint
from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import ScoreModel
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE
from sdegen.training.batches import Points, Stream
from sdegen.training.held_out import HeldOut
from sdegen.training.loop import Training
from sdegen.training.objective import Objective
from sdegen.training.optimizer import Optimizer
from sdegen.training.perceptron import gradient_of
from sdegen.training.times import TimeSampler
from sdegen.training.trainer import DTYPES, Trainer
from sdegen.training.weighting import Weighting


class Components(NamedTuple):
    """The parts of a run, and its configuration with ``auto`` replaced by values."""

    config: Config
    dataset: Dataset
    moments: Moments | None
    sde: SDE
    model: ScoreModel | ClassifierModel
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    optimizer: Optimizer
    trainer: Trainer
    sampler: Sampler

    def held_out(self) -> HeldOut:
        """Returns the loss on points that the model is not trained on, on the trainer's device."""
        trainer = self.trainer
        return HeldOut(
            self.dataset,
            self.config["seed"],
            trainer.batch_size,
            self.objective,
            self.weighting,
            self.times,
            self.sde,
            trainer.device,
            DTYPES[trainer.precision],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of the data: see :func:`known_by`."""
        return known_by(self.config, self.dataset)

    def training(self) -> Training:
        """Returns the training before its first step: see :func:`together`."""
        return together([self])


def together(runs: Sequence[Components]) -> Training:
    """Returns the training of runs that differ in their seeds, before its first step, on the trainer's device.

    It has no steps where there is nothing to train.
    """
    first, trainer = runs[0], runs[0].trainer
    device, dtype = trainer.device, DTYPES[trainer.precision]
    models = [one.model.to(device, dtype) for one in runs]
    gradient = gradient_of(trainer.gradient, models, first.objective, trainer.precision == "bfloat16")
    dropout = first.model.network.label_dropout
    points = [Points(one.config["seed"], one.dataset, trainer.batch_size, dropout, device, dtype) for one in runs]
    stream = Stream(points, gradient.prepare, first.weighting, first.times, first.sde)
    trainable = any(p.requires_grad for p in models[0].parameters())
    steps = trainer.total(len(first.dataset.x)) if trainable else 0
    torch.set_num_threads(trainer.threads_for(work(runs)))
    return Training(gradient, first.optimizer, trainer, stream, steps)


def work(runs: Sequence[Components]) -> float:
    """Returns the multiplications and additions of one pass through the networks: of a step's rows, or of a chunk."""
    first = runs[0]
    rows = min(first.trainer.batch_size, len(first.dataset.x)) * first.times.chunk * len(runs)
    return 0.0 if first.model.network.exact else rows * first.model.network.work(first.dataset.units.shape)


def known_by(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns the fingerprint of the data of a configuration; of all bytes where they were read from a file."""
    return fingerprint(dataset, exact="path" in config["dataset"])
