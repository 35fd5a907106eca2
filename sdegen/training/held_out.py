"""Loss of a model on points that are not used for training."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdegen.core.processes import ALONE, Processes
from sdegen.core.randomness import derive, generator, own_layers
from sdegen.datasets import Dataset
from sdegen.networks.condition import Condition
from sdegen.sde.base import SDE, Score
from sdegen.training.batches import Batch, Points, Stream
from sdegen.training.gradient import Model, weighted_losses
from sdegen.training.objective import Objective
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

ROWS = 4096
"""Largest number of rows for a held-out loss, unless a single batch has more rows."""
KEPT = 2**22
"""Largest number of entries of the points of all rows for which the rows are kept from one evaluation to the next."""


@dataclass(frozen=True)
class HeldOut:
    """Weighted loss on held-out points, or on new samples if the distribution of the data is known.

    The points, times and noises are always the same, so that two models are compared with little noise. The loss is a
    mean over batches of ``batch_size`` points, with at most :data:`ROWS` rows in total. The other fields are the
    settings of the training, the kind of condition that the network takes, and the device and the number type of the
    computation. No condition is hidden.

    Attributes:
        batches: largest number of batches, from the first on; None for all batches.
        copies: number of uses of each point, each with a time and a noise of its own.
        processes: processes that compute the loss together, each with the same model, and share the batches.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    sde: SDE
    condition: Condition | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    batches: int | None = None
    copies: int = 1
    processes: Processes = ALONE

    def within(self, batches: int) -> HeldOut:
        """Returns the loss on at most ``batches`` batches. Few points are used several times, to fill the batches.

        With several times and noises for each point, the loss shows differences between models that a single time and
        noise would hide.
        """
        rows = min(batches * self.batch_size, ROWS // self.times.draws)
        points = 0 if self._stream is None else len(self._stream.points[0].x)
        return replace(self, batches=batches, copies=max(1, rows // max(1, points)))

    def shared(self, processes: Processes) -> HeldOut:
        """Returns the loss as several processes compute it together. All of them must call the same methods."""
        return replace(self, processes=processes)

    def loss(self, model: Model) -> float | None:
        """Returns the loss of a model in its current mode; None without held-out points or known distribution."""
        losses = self.losses(model)
        return None if losses is None else float(losses.mean())

    def losses(self, model: Model) -> Tensor | None:
        """Returns the losses of all copies of each point, ``(copies, N)``, float64 on the CPU. Their mean is the loss.

        The order of the points is always the same. Returns None without held-out points or known distribution.
        """
        losses = self._losses(lambda batch: weighted_losses(model, self.objective, batch))
        if losses is None or self.copies == 1:
            return None if losses is None else losses[None]
        assert self._stream is not None
        points = self._stream.points[0]
        order = points.indices(range(points.per_epoch)).flatten()[: len(losses)].cpu()
        return torch.empty_like(losses).index_copy(0, order, losses).view(self.copies, -1)

    def loss_of(self, given: Callable[[Tensor], Score]) -> float | None:
        """Returns the loss of a score, such as the exact one, at the same rows: see :meth:`loss`.

        ``given`` returns the score for the conditions of the rows, in the form of :attr:`Batch.y`.
        """

        def losses_of(batch: Batch) -> Tensor:
            own = batch.of(0)
            return own.weight * self.objective.loss(given(own.rows.conditions(own.y)), own.rows)

        losses = self._losses(losses_of)
        return None if losses is None else float(losses.mean())

    def _losses(self, function: Callable[[Batch], Tensor]) -> Tensor | None:
        if self._stream is None:
            return None
        (points,), group = self._stream.points, self.processes
        count = min(points.per_epoch, self.batches or points.per_epoch)
        found = [torch.zeros(points.size(step), dtype=torch.float64) for step in range(count)]
        steps = itertools.islice(enumerate(self._steps()), group.rank, count, group.size)
        with own_layers(self.device, points.seed, "layers"), torch.set_grad_enabled(self.objective.differentiates):
            for step, chunks in steps:
                losses = torch.cat([function(batch).detach().double().cpu() for batch in chunks])
                found[step] = losses.view(self.times.draws, -1).mean(0)
        # Every batch has the same weight, even if it is short.
        size = sum(map(len, found)) / len(found)
        weighted = torch.cat([losses * (size / len(losses)) for losses in found])
        # The losses of batches of other processes are 0 here, so that the sum is exact.
        group.add(weighted)
        return weighted

    @functools.cached_property
    def _stream(self) -> Stream | None:
        """Stream whose first epoch has the rows of the loss; None without held-out points or known distribution."""
        seed = derive(self.seed, "held out")
        data = self._data(seed)
        if data is None:
            return None
        points = Points(seed, data, self.batch_size, self.condition, self.device, self.dtype, hides=False)
        return Stream([points], self.objective.prepared, self.weighting, self.times, self.sde)

    def _steps(self) -> Iterator[list[Batch]]:
        """Returns the batches of the rows, each as a list of chunks."""
        assert self._stream is not None
        points = self._stream.points[0]
        if len(points.x) * points.x[0].numel() * self.times.draws > KEPT:
            return self._stream.steps(0, points.per_epoch)
        return iter(self._kept)

    @functools.cached_property
    def _kept(self) -> list[list[Batch]]:
        assert self._stream is not None
        return list(self._stream.steps(0, self._stream.points[0].per_epoch))

    def _data(self, seed: int) -> Dataset | None:
        """Returns the data set with the points of the loss as training points; None if there are no such points."""
        dataset, own = self.dataset, copy.copy(self.dataset)
        count = max(1, ROWS // (self.batch_size * self.times.draws)) * self.batch_size
        if dataset.held_out is not None:
            # The points may be sorted or periodic, so choose them at random, and on the disk, so read them in order.
            order = torch.randperm(len(dataset.held_out), generator=generator("cpu", 0, "held out"))
            rows = order[:count].sort().values
            x, own.y = dataset.held_out[rows], None if dataset.held_out_y is None else dataset.held_out_y[rows]
            own.c = None if dataset.held_out_c is None else dataset.held_out_c[rows]
        elif dataset.simulate is not None:
            x, own.c = dataset.simulate(count, generator("cpu", seed, "points"))
        else:
            source = generator("cpu", seed, "points")
            drawn = dataset.draw(count, source) if dataset.y is None else dataset.draw_labelled(count, source)
            if drawn is None:
                return None
            x, own.y = drawn if isinstance(drawn, tuple) else (drawn, None)
        own.x, own.disk, own.fresh = x.double() if x.ndim == 2 else x, None, False
        if self.copies > 1:
            own.x = own.x.repeat(self.copies, *[1] * (own.x.ndim - 1))
            own.y = None if own.y is None else own.y.repeat(self.copies, *[1] * (own.y.ndim - 1))
            own.c = None if own.c is None else own.c.repeat(self.copies, *[1] * (own.c.ndim - 1))
        return own
