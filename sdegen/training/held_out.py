"""The loss of a model on points that it is not trained on."""

from __future__ import annotations

import copy
import itertools

import torch

from sdegen.core.randomness import derive, generator, own_layers
from sdegen.datasets import Dataset
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.sde.base import SDE
from sdegen.training.batches import Points, Prepare, Stream
from sdegen.training.gradient import Autograd
from sdegen.training.objective import Objective
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

ROWS = 4096
"""Of the network that a loss may cost, unless a single batch has more."""


class HeldOut:
    """The weighted loss on held-out points, or on fresh ones where the law is known.

    Its times and noises are always the same, so that two models are compared with little noise. It is a mean over
    batches like those of the training.

    Args:
        dataset: tells the points.
        seed: of the run.
        batch_size: points that pass through the network at once.
        objective: the unweighted loss.
        weighting: λ(t).
        times: draws the times.
        sde: the forward process.
        device: where to compute.
        dtype: of the computation.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        batch_size: int,
        objective: Objective,
        weighting: Weighting,
        times: TimeSampler,
        sde: SDE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.objective, self.device, self.dtype = objective, device, dtype
        self.seed, self.batch_size = derive(seed, "held out"), batch_size
        self.dataset, self.weighting, self.times, self.sde = dataset, weighting, times, sde

    def loss(self, model: ScoreModel | ClassifierModel) -> float | None:
        """The loss of a model as it stands, in evaluation mode or not; None where there are no points for it."""
        stream = self._stream(Autograd(model, self.objective).prepare)
        if stream is None:
            return None
        total, steps = 0.0, stream.points[0].per_epoch
        with own_layers(self.device, self.seed, "layers"), torch.set_grad_enabled(self.objective.differentiates):
            for batch in itertools.chain.from_iterable(stream.steps(0, steps)):
                losses = self.objective.loss(model.given(batch.y), batch.rows)
                total += float((batch.weight * losses.detach()).double().sum()) / batch.total
        return total / steps

    def _stream(self, prepare: Prepare) -> Stream | None:
        """One epoch of the points."""
        dataset = self.dataset
        count = max(1, ROWS // (self.batch_size * self.times.draws)) * self.batch_size
        own = copy.copy(dataset)
        if dataset.held_out is not None:
            every = slice(None, None, -(-len(dataset.held_out) // count))
            x, own.y = dataset.held_out[every], None if dataset.held_out_y is None else dataset.held_out_y[every]
        else:
            drawn = dataset.draw(count, generator("cpu", self.seed, "points"))
            if drawn is None or dataset.y is not None:
                return None
            x = drawn
        own.x, own.mapped = x.double() if x.ndim == 2 else x, False
        points = Points(self.seed, own, self.batch_size, None, self.device, self.dtype)
        return Stream([points], prepare, self.weighting, self.times, self.sde)
