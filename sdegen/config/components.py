"""The parts of a run, and the training of one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.compose import Config
from sdegen.core import processes
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.core.tensors import squared_norm
from sdegen.datasets import Dataset
from sdegen.datasets.fingerprint import fingerprint
from sdegen.models.likelihood import Likelihood
from sdegen.models.moments import Moments
from sdegen.models.score import ScoreModel
from sdegen.networks.oracle import Oracle
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE, Score
from sdegen.training import baseline
from sdegen.training.batches import Points, Stream
from sdegen.training.held_out import HeldOut
from sdegen.training.logger import Logger
from sdegen.training.loop import Training
from sdegen.training.objective import Objective
from sdegen.training.optimizer import Optimizer
from sdegen.training.perceptron import gradient_of
from sdegen.training.times import TimeSampler
from sdegen.training.trainer import DTYPES, Trainer
from sdegen.training.weighting import Weighting

MEASURED = 5000
"""Largest number of data points, chosen at random, from which the values of ``auto`` options are computed."""


class Components(NamedTuple):
    """Parts of a run, and the configuration of the run with values in place of ``auto``."""

    config: Config
    dataset: Dataset
    moments: Moments | None
    sde: SDE
    model: ScoreModel | Likelihood
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    optimizer: Optimizer
    trainer: Trainer
    sampler: Sampler
    logger: Logger

    def held_out(self) -> HeldOut:
        """Returns an object that computes the loss on held-out points, on the trainer's device."""
        trainer = self.trainer
        return HeldOut(
            self.dataset,
            self.config["seed"],
            trainer.batch_size,
            self.objective,
            self.weighting,
            self.times,
            self.sde,
            self.model.network.condition,
            trainer.device,
            DTYPES[trainer.precision],
        )

    def baseline(self) -> float | None:
        """Returns the loss of a simple model, as a unit of the loss: see :mod:`sdegen.training.baseline`."""
        classes = self.dataset.classes or 1
        if self.objective.against == "chance" and classes > 1:
            return baseline.chance(self.sde, self.weighting, self.times, classes)
        if self.objective.against != "gaussian" or self.sde.linear is None:
            return None
        moments = self.moments
        if moments is None or moments.axes is None:
            moments = moments_of(self.dataset, some(self.dataset), flat=True)
        size = self.dataset.units.size
        loss = baseline.gaussian(self.sde.linear, self.weighting, self.times, moments.variances.expand(size))
        return loss if loss > 0 else None

    def best_loss(self) -> float | None:
        """Returns the held-out loss of the exact score; None if it is not known or the loss has no unit.

        If the network takes the class, it is the exact score of the class of each row.
        """
        law, taken = self.dataset.encoded_law, self.model.network.condition
        if law is None or self.sde.linear is None or self.objective.against != "gaussian":
            return None
        if taken is not None and (taken.valued or law.labels is None):
            return None
        exact = Oracle(law, self.sde.linear)

        def given(y: Tensor) -> Score:
            known = None if taken is None else y.cpu()
            return lambda x, t: exact(x.double().cpu(), t.double().cpu(), known).to(x)

        return self.held_out().loss_of(given)

    def prior_text(self) -> list[str]:
        """Returns a line for the log about the prior; none for a classifier, or if the kernel of the SDE is unknown."""
        linear = self.sde.linear
        if linear is None or self.objective.predicts != "score":
            return []
        x = self.dataset.units.encode(some(self.dataset)).double()
        gap = linear.prior_gap(float(squared_norm(x).mean()), self.dataset.units.size)
        shape = f"normal, standard deviation {linear.prior_std:.4g}, at t = {linear.T:.4g}"
        return [f"{'prior':10}{shape}; KL divergence from p_T at most {gap:.1e} nats"]

    def training(self) -> Training:
        """Returns the training of this run: see :func:`together`."""
        return together([self])


def together(runs: Sequence[Components]) -> Training:
    """Returns a training of runs that differ only in their seeds. It is on the trainer's device and has taken no step.

    If no parameter is trainable, the number of steps of the training is 0.
    """
    first, trainer = runs[0], runs[0].trainer
    device, dtype = trainer.device, DTYPES[trainer.precision]
    models = [one.model.to(device, dtype) for one in runs]
    gradient = gradient_of(trainer.gradient, models, first.objective, trainer.precision == "bfloat16")
    condition = first.model.network.condition
    points = [Points(one.config["seed"], one.dataset, trainer.batch_size, condition, device, dtype) for one in runs]
    shards = trainer.shards or processes.present().size
    if trainer.batch_size < shards:
        raise UserError(
            f"trainer.batch_size={trainer.batch_size} is smaller than the number of processes, {shards}: start at most "
            f"{trainer.batch_size}, or use a larger batch"
        )
    stream = Stream(points, gradient.prepare, first.weighting, first.times, first.sde, shards)
    trainable = any(p.requires_grad for p in models[0].parameters())
    steps = trainer.total(len(first.dataset.x)) if trainable else 0
    torch.set_num_threads(trainer.threads_for(work(runs)))
    return Training(gradient, first.optimizer, trainer, stream, steps)


def work(runs: Sequence[Components]) -> float:
    """Returns the number of multiplications and additions in one forward pass of a batch through all networks."""
    first = runs[0]
    rows = min(first.trainer.batch_size, len(first.dataset.x)) * first.times.chunk * len(runs)
    return 0.0 if first.model.network.exact else rows * first.model.network.work(first.dataset.units.shape)


def known_by(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns the fingerprint of a data set. It is exact if the data were read from a file."""
    return fingerprint(dataset, exact="path" in config["dataset"])


def some(dataset: Dataset) -> Tensor:
    """Returns the data points from which the values of ``auto`` options are computed, in the user's units."""
    return dataset.x[chosen(dataset, MEASURED)]


def chosen(dataset: Dataset, most: int) -> slice | Tensor:
    """Returns the index of at most ``most`` training points."""
    if len(dataset.x) <= most:
        return slice(None)
    # The rows may be sorted, so choose them at random. They may lie on the disk, so read them in order.
    order = torch.randperm(len(dataset.x), generator=generator("cpu", 0, "measured"))
    return order[:most].sort().values


def moments_of(dataset: Dataset, points: Tensor, flat: bool = False) -> Moments:
    """Returns the moments, in the network's units, of points of a data set in the user's units.

    If ``flat`` is true, images are vectors of their entries.
    """
    encoded = dataset.units.encode(dataset.dequantized(points, generator("cpu", 0, "moments")))
    return Moments.of(encoded.flatten(1) if flat else encoded)
