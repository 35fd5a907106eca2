"""The batches of a training, as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.objective import Objective, Prepared
from sdegen.rng import generator, randn_like
from sdegen.score import ScoreModel
from sdegen.times import TimeSampler
from sdegen.weighting import Weighting


class Batch(NamedTuple):
    """The rows of a step, or of a chunk of it.

    Attributes:
        rows: what the objective needs.
        weight: λ(t) times ``ratio``, ``(N,)``.
        ratio: the uniform density over that of the times, ``(N,)``.
        total: the number of rows of the whole step.
    """

    rows: Prepared
    weight: Tensor
    ratio: Tensor
    total: int


class Stream:
    """The batches of every step, as a function of (seed, step).

    An epoch is a permutation of the data from (seed, epoch). The times and noises of step k come from the block
    ``k // K`` of steps, row ``k % K``: a whole block is prepared at once, which makes the preparation of a small step
    nearly free. K is :attr:`AHEAD`, or as many steps as have :attr:`NUMBERS` numbers of noise, if that is fewer. Both
    constants are part of the meaning of a seed.

    Args:
        seed: the run's seed.
        x: the data as the network meets them, on their device, ``(N, *)``.
        batch_size: data points in a step.
        objective: prepares the noisy points.
        weighting: λ(t).
        times: draws the times.
        model: whose SDE it is.
        cell: size of a cell of quantised data in the network's units, ``(*)``, in which they are spread uniformly, anew
            at each step; None where they are taken as they are.
    """

    AHEAD = 32
    NUMBERS = 2**20

    def __init__(
        self,
        seed: int,
        x: Tensor,
        batch_size: int,
        objective: Objective,
        weighting: Weighting,
        times: TimeSampler,
        model: ScoreModel,
        cell: Tensor | None = None,
    ) -> None:
        self.seed, self.x, self.batch_size, self.cell = seed, x, batch_size, cell
        self.objective, self.weighting, self.times, self.sde = objective, weighting, times, model.sde
        self.per_epoch = -(-len(x) // batch_size)
        numbers = times.draws * min(batch_size, len(x)) * x[0].numel()
        self.ahead = max(1, min(self.AHEAD, self.NUMBERS // numbers))
        self._epoch = -1

    def steps(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The chunks of each step from ``start`` to ``stop``."""
        step = start
        while step < stop:
            block, row = divmod(step, self.ahead)
            for chunks in self._block(block, row, min(stop - block * self.ahead, self.ahead)):
                yield chunks
                step += 1

    @torch.no_grad()
    def _block(self, block: int, start: int, stop: int) -> Iterator[list[Batch]]:
        indices = [self._indices(block * self.ahead + k) for k in range(self.ahead)]
        sizes = [len(index) for index in indices]
        width = max(sizes)
        index = torch.stack([torch.nn.functional.pad(i, (0, width - len(i))) for i in indices])
        shape = (self.ahead, self.times.draws, width)
        source = generator(self.x.device, self.seed, "train", block)
        u = torch.rand(shape, generator=source, device=self.x.device).to(self.x.dtype)
        t, ratio = (part.clone() for part in self.times(self.sde, self.weighting, u))
        for k, size in enumerate(sizes):
            if size < width:
                part = self.times(self.sde, self.weighting, u[k : k + 1, :, :size])
                t[k, :, :size], ratio[k, :, :size] = part[0][0], part[1][0]
        x0 = self.x[index]
        if self.cell is not None:
            # A generator of its own, so that it moves no other number.
            spread = generator(x0.device, self.seed, "dequantisation", block)
            x0 = x0 + self.cell * (torch.rand(x0.shape, generator=spread, device=x0.device).to(x0.dtype) - 0.5)
        x0 = x0[:, None].expand(*shape, *self.x.shape[1:]).flatten(0, 2)
        rows = self.objective.prepare(self.sde, x0, t.flatten(), randn_like(source))
        weight = ratio * self.weighting(self.sde, t)
        rows = rows.map(lambda field: field.unflatten(0, shape))
        chunk = self.times.chunk
        for k in range(start, stop):
            chunks = []
            for i in range(0, self.times.draws, chunk):
                cut = partial(_cut, step=k, draws=slice(i, i + chunk), size=sizes[k])
                chunks.append(Batch(rows.map(cut), cut(weight), cut(ratio), sizes[k] * self.times.draws))
            yield chunks

    def _indices(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            source = generator("cpu", self.seed, "epoch", epoch)
            self._order = torch.randperm(len(self.x), generator=source).to(self.x.device)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def _cut(field: Tensor, step: int, draws: slice, size: int) -> Tensor:
    """The rows of some draws of a step, of its first ``size`` data points: from ``(K, draws, B, *)`` to ``(N, *)``."""
    return field[step, draws, :size].flatten(0, 1)
