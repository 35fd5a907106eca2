"""Loss of a model on points that are not used for training."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch

from sdegen.core.randomness import derive, generator, own_layers
from sdegen.datasets import Dataset
from sdegen.sde.base import SDE
from sdegen.training.batches import Points, Stream
from sdegen.training.gradient import Model, weighted_losses
from sdegen.training.objective import Objective
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

ROWS = 4096
"""Largest number of rows for a held-out loss, unless a single batch has more rows."""


@dataclass(frozen=True)
class HeldOut:
    """Weighted loss on held-out points, or on new samples if the distribution of the data is known.

    The points, times and noises are always the same, so that two models are compared with little noise. The loss is a
    mean over batches of ``batch_size`` points. The fields are the settings of the training, and the device and the
    number type of the computation.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    sde: SDE
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32

    def loss(self, model: Model) -> float | None:
        """Returns the loss of a model in its current mode; None without held-out points or known distribution."""
        seed, objective = derive(self.seed, "held out"), self.objective
        data = self._data(seed)
        if data is None:
            return None
        points = Points(seed, data, self.batch_size, None, self.device, self.dtype)
        # The last arguments are the weight and the condition; Objective.prepare does not take them.
        stream = Stream([points], lambda *rows: objective.prepare(*rows[:-2]), self.weighting, self.times, self.sde)
        total = 0.0
        with own_layers(self.device, seed, "layers"), torch.set_grad_enabled(objective.differentiates):
            for batch in itertools.chain.from_iterable(stream.steps(0, points.per_epoch)):
                total += float(weighted_losses(model, objective, batch).detach().double().sum()) / batch.total
        return total / points.per_epoch

    def _data(self, seed: int) -> Dataset | None:
        """Returns the data set with the points of the loss as training points; None if there are no such points."""
        dataset, own = self.dataset, copy.copy(self.dataset)
        count = max(1, ROWS // (self.batch_size * self.times.draws)) * self.batch_size
        if dataset.held_out is not None:
            every = slice(None, None, -(-len(dataset.held_out) // count))
            x, own.y = dataset.held_out[every], None if dataset.held_out_y is None else dataset.held_out_y[every]
        else:
            source = generator("cpu", seed, "points")
            drawn = dataset.draw(count, source) if dataset.y is None else dataset.draw_labelled(count, source)
            if drawn is None:
                return None
            x, own.y = drawn if isinstance(drawn, tuple) else (drawn, None)
        own.x, own.mapped = x.double() if x.ndim == 2 else x, False
        return own
