"""The batches of a training, as a function of (seed, step)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.datasets import Dataset
from sdegen.sde.base import SDE
from sdegen.training.objective import Prepared
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

Prepare = Callable[[Any, Tensor, Tensor, RandnLike, Tensor], Prepared]


class Batch(NamedTuple):
    """The rows of a step, or of a chunk of it; of R seeds that are trained together, R times as many, ``(R, N, *)``.

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
    ``k // K`` of steps, row ``k % K``. K is :attr:`AHEAD`, or as many steps as have :attr:`NUMBERS` numbers of noise,
    if that is fewer. Both constants are part of the meaning of a seed. Whole blocks are prepared at once, up to
    :attr:`TOGETHER` of them, which makes the preparation of a small step nearly free and changes no number.

    Args:
        points: the data; of several seeds that are trained together, each its own, all of one size.
        prepare: makes the rows of many steps at once: see :meth:`sdegen.training.gradient.Gradient.prepare`.
        weighting: λ(t).
        times: draws the times.
        sde: the forward process.
        apart: prepare the blocks one by one, where rows in other company would differ in their last bits.

    Attributes:
        variant: which of the seed's streams of times and noises; 0 but for a training that is retried.
    """

    AHEAD = 32
    NUMBERS = 2**20
    TOGETHER = 16

    def __init__(
        self,
        points: Sequence[Points],
        prepare: Prepare,
        weighting: Weighting,
        times: TimeSampler,
        sde: SDE,
        apart: bool = False,
    ) -> None:
        self.points, self.prepare, self.weighting, self.times, self.sde = points, prepare, weighting, times, sde
        self.variant = 0
        numbers = times.draws * points[0].numbers
        self.ahead = max(1, min(self.AHEAD, self.NUMBERS // numbers))
        self.together = 1 if apart else max(1, min(self.TOGETHER, self.NUMBERS // (numbers * self.ahead * len(points))))

    def steps(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The chunks of each step from ``start`` to ``stop``."""
        step = start
        while step < stop:
            block, row = divmod(step, self.ahead)
            blocks = range(block, min(block + self.together, -(-stop // self.ahead)))
            coming = self._prepared(blocks)[row : stop - block * self.ahead]
            yield from coming
            step += len(coming)

    @torch.no_grad()
    def _prepared(self, blocks: range) -> list[list[Batch]]:
        """The chunks of every step of some blocks."""
        steps = range(blocks.start * self.ahead, blocks.stop * self.ahead)
        sizes, first = [self.points[0].size(step) for step in steps], self.points[0]
        seeds, width, draws, chunk = len(self.points), max(sizes), self.times.draws, self.times.chunk
        shape = (seeds, len(steps), draws, width)
        key: list[str | int] = ["train", self.variant] if self.variant else ["train"]
        sources = [generator(first.device, points.seed, *key, k) for points in self.points for k in blocks]
        one = (self.ahead, draws, width)
        u = torch.cat([torch.rand(one, generator=source, device=first.device) for source in sources]).to(first.dtype)
        t, ratio = (part.clone() for part in self.times(self.sde, self.weighting, u))
        # The last batches of the epochs, which are all of one size.
        if short := [i for i in range(len(u)) if sizes[i % len(steps)] < width]:
            size = min(sizes)
            t[short, :, :size], ratio[short, :, :size] = self.times(self.sde, self.weighting, u[short, :, :size])
        own = [points.take(steps, blocks, width) for points in self.points]
        x0, y = (torch.stack(part)[:, :, None] for part in zip(*own, strict=True))
        x0, weight = x0.expand(*shape, *x0.shape[4:]).flatten(0, 3), ratio * self.weighting(self.sde, t)
        rows = self.prepare(self.sde, x0, t.flatten(), _each(sources), weight.flatten())
        fields = [*vars(rows).values(), y.expand(shape).flatten(), weight.flatten(), ratio.flatten()]
        fields = [field.unflatten(0, shape).transpose(0, 1) for field in fields]

        def cut(at: list[int], draws: slice, size: int) -> list[Batch]:
            """A batch of each of some steps."""
            every = slice(at[0], at[-1] + 1) if len(at) == at[-1] - at[0] + 1 else at
            columns = [field[every, :, draws, :size].flatten(2, 3) for field in fields]
            columns = [(column.squeeze(1) if seeds == 1 else column).unbind() for column in columns]
            total = self.times.draws * size
            made = zip(*columns, strict=True)
            return [Batch(type(rows)(*of), y, weight, ratio, total) for *of, y, weight, ratio in made]

        # Steps of one size are cut at once: one by one would cost a small step as much as its products. A step in
        # chunks is large, and what is cut alone is not copied.
        alike = [[k for k, other in enumerate(sizes) if other == size] for size in set(sizes)]
        chunks: dict[int, list[Batch]] = {}
        for at in alike if chunk == draws else [[k] for k in range(len(sizes))]:
            parts = [cut(at, slice(i, i + chunk), sizes[at[0]]) for i in range(0, draws, chunk)]
            chunks |= {k: list(own) for k, own in zip(at, zip(*parts, strict=True), strict=True)}
        return [chunks[k] for k in range(len(sizes))]


class Points:
    """The data points of the steps of a seed, and what the network is told of their classes.

    The data lie on the device as they were read, bytes as bytes, and become the network's numbers batch by batch; what
    is mapped from the disk stays there.

    Args:
        seed: the run's seed.
        dataset: the data.
        batch_size: data points in a step.
        dropout: the share of points whose class the network is not told; None where it is told of none.
        device: where the batches are wanted.
        dtype: of their numbers.
    """

    def __init__(
        self,
        seed: int,
        dataset: Dataset,
        batch_size: int,
        dropout: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed, self.dropout, self.device, self.dtype = seed, dropout, device, dtype
        self.units = dataset.units
        self.cells = None if dataset.cells is None else dataset.cells.to(device)
        self.x = x = dataset.x if dataset.mapped else dataset.x.to(device)
        y = torch.full((len(x),), -1) if dataset.y is None else dataset.y
        self.y = y.to(device)
        self.per_epoch, self.width = -(-len(x) // batch_size), min(batch_size, len(x))
        self.numbers = self.width * x[0].numel()
        # The last one is met again at the next steps.
        self.order = functools.lru_cache(1)(self._order)

    def size(self, step: int) -> int:
        """The number of points in a step: the last of an epoch is short."""
        return min(self.width, len(self.x) - step % self.per_epoch * self.width)

    def indices(self, steps: range) -> Tensor:
        """Which points they are, ``(K, B)``; what is beyond the size of a short step is not to be used."""
        starts = range(steps.start - steps.start % self.per_epoch, steps.stop, self.per_epoch)
        orders = [self.order(start // self.per_epoch) for start in starts]
        return torch.cat([o[max(steps.start - s, 0) : steps.stop - s] for s, o in zip(starts, orders, strict=True)])

    def take(self, steps: range, blocks: range, width: int) -> tuple[Tensor, Tensor]:
        """The points in the network's units, ``(K, B, *)``, and classes ``(K, B)``, of the steps of some blocks."""
        # A large step is a block by itself, and may be the short one.
        index = self.indices(steps)[:, :width]
        x, y = self.x[index.to(self.x.device)].to(self.device), self.y[index]
        if self.cells is not None:
            # Uniform in the cell of each level; a stream of its own, so that it moves no other number.
            x = x.double() + self.cells * self._uniform("dequantisation", x, blocks) - self.cells / 2
        if self.dropout:
            y = torch.where(self._uniform("labels", y, blocks) < self.dropout, -1, y)
        return self.units.encode(x).to(self.dtype), y

    def _order(self, epoch: int) -> Tensor:
        """The points of the steps of an epoch, ``(per_epoch, B)``."""
        order = torch.randperm(len(self.x), generator=generator("cpu", self.seed, "epoch", epoch))
        return (
            nn.functional.pad(order, (0, self.per_epoch * self.width - len(order))).view(-1, self.width).to(self.device)
        )

    def _uniform(self, purpose: str, like: Tensor, blocks: range) -> Tensor:
        """Numbers in [0, 1) of the shape of what belongs to the steps of some blocks."""
        shape = (len(like) // len(blocks), *like.shape[1:])
        sources = [generator(self.device, self.seed, purpose, block) for block in blocks]
        return torch.cat([torch.rand(shape, generator=source, device=self.device) for source in sources])


def _each(sources: Sequence[torch.Generator]) -> RandnLike:
    """Standard normal draws, an equal part of the rows from each generator."""
    draws = [randn_like(source) for source in sources]
    return lambda x: torch.cat([draw(part) for draw, part in zip(draws, x.chunk(len(draws)), strict=True)])
