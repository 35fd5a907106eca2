"""The batches of a training, as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.classifier import ClassifierModel
from sdegen.datasets import Dataset
from sdegen.objective import Prepared
from sdegen.rng import RandnLike, generator, randn_like
from sdegen.score import ScoreModel
from sdegen.times import TimeSampler
from sdegen.weighting import Weighting

Prepare = Callable[[Any, Tensor, Tensor, RandnLike, Tensor], Prepared]


class Batch(NamedTuple):
    """The rows of a step, or of a chunk of it.

    Attributes:
        rows: what the objective needs.
        y: what a network is told of their classes, ``(N,)`` int64; -1 where it is not.
        weight: λ(t) times ``ratio``, ``(N,)``.
        ratio: the uniform density over that of the times, ``(N,)``.
        total: the number of rows of the whole step.
    """

    rows: Prepared
    y: Tensor
    weight: Tensor
    ratio: Tensor
    total: int


class Stream:
    """The batches of every step, as a function of (seed, step).

    An epoch is a permutation of the data from (seed, epoch). The times and noises of step k come from the block
    ``k // K`` of steps, row ``k % K``: a whole block is prepared at once, which makes the preparation of a small step
    nearly free. K is :attr:`AHEAD`, or as many steps as have :attr:`NUMBERS` numbers of noise, if that is fewer. Both
    constants are part of the meaning of a seed.

    The data lie on the device as they were read, bytes as bytes, and become the network's numbers batch by batch; what
    is mapped from the disk stays there.

    Args:
        seed: the run's seed.
        dataset: the data.
        batch_size: data points in a step.
        prepare: makes the rows of many steps at once: see :meth:`sdegen.gradient.Gradient.prepare`.
        weighting: λ(t).
        times: draws the times.
        model: whose SDE it is, and whose network is told the classes or not.
        device: where the batches are wanted.
        dtype: of their numbers.
    """

    AHEAD = 32
    NUMBERS = 2**20

    def __init__(
        self,
        seed: int,
        dataset: Dataset,
        batch_size: int,
        prepare: Prepare,
        weighting: Weighting,
        times: TimeSampler,
        model: ScoreModel | ClassifierModel,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed, self.batch_size, self.device, self.dtype = seed, batch_size, device, dtype
        self.units, self.dequantize = dataset.units, dataset.dequantize
        self.x = x = dataset.x if dataset.mapped else dataset.x.to(device)
        y = torch.full((len(x),), -1) if dataset.y is None else dataset.y
        self.y, self.dropout = y.to(device), model.network.label_dropout
        self.prepare, self.weighting, self.times, self.sde = prepare, weighting, times, model.sde
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
        index = torch.nn.utils.rnn.pad_sequence(indices, batch_first=True)
        shape = (self.ahead, self.times.draws, width)
        source = generator(self.device, self.seed, "train", block)
        u = torch.rand(shape, generator=source, device=self.device).to(self.dtype)
        t, ratio = (part.clone() for part in self.times(self.sde, self.weighting, u))
        # The last batches of the epochs, which are all of one size.
        if short := [k for k, size in enumerate(sizes) if size < width]:
            size = min(sizes)
            t[short, :, :size], ratio[short, :, :size] = self.times(self.sde, self.weighting, u[short, :, :size])
        x0 = self._points(index, block)[:, None].expand(*shape, *self.x.shape[1:]).flatten(0, 2)
        weight = ratio * self.weighting(self.sde, t)
        rows = self.prepare(self.sde, x0, t.flatten(), randn_like(source), weight.flatten())
        rows = rows.map(lambda field: field.unflatten(0, shape))
        y = self._labels(index, block)[:, None].expand(shape)
        chunk = self.times.chunk
        if chunk == self.times.draws:
            # Cut for all steps at once: for a small step one by one would cost as much as its products.
            fields = [field.flatten(1, 2).unbind() for field in (*vars(rows).values(), y, weight, ratio)]
            whole = [(type(rows)(*own[:-3]), *own[-3:], width * chunk) for own in zip(*fields, strict=True)]
        for k in range(start, stop):
            if chunk == self.times.draws and sizes[k] == width:
                yield [Batch(*whole[k])]
                continue
            chunks = []
            for i in range(0, self.times.draws, chunk):
                cut = partial(_cut, step=k, draws=slice(i, i + chunk), size=sizes[k])
                chunks.append(Batch(rows.map(cut), cut(y), cut(weight), cut(ratio), sizes[k] * self.times.draws))
            yield chunks

    def _points(self, index: Tensor, block: int) -> Tensor:
        """The data of a block in the network's units: ``(K, B)`` indices to ``(K, B, *)``."""
        x = self.x[index.to(self.x.device)].to(self.device)
        if self.dequantize:
            # Uniform in the cell of each level; Stream's own, so that it moves no other number.
            source = generator(self.device, self.seed, "dequantisation", block)
            x = x.double() + torch.rand(x.shape, generator=source, device=self.device) - 0.5
        return self.units.encode(x).to(self.dtype)

    def _labels(self, index: Tensor, block: int) -> Tensor:
        """What the network is told of the classes of a block, ``(K, B)``: all, or all but a share at random."""
        y = self.y[index]
        if self.dropout:
            source = generator(self.device, self.seed, "labels", block)
            y = torch.where(torch.rand(y.shape, generator=source, device=self.device) < self.dropout, -1, y)
        return y

    def _indices(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            source = generator("cpu", self.seed, "epoch", epoch)
            self._order = torch.randperm(len(self.x), generator=source).to(self.device)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


def _cut(field: Tensor, step: int, draws: slice, size: int) -> Tensor:
    """The rows of some draws of a step, of its first ``size`` data points: from ``(K, draws, B, *)`` to ``(N, *)``."""
    return field[step, draws, :size].flatten(0, 1)
