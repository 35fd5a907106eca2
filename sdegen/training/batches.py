"""Batches of training data, as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.datasets import Dataset
from sdegen.datasets.disk import ReadAhead
from sdegen.networks.condition import NONE, Condition
from sdegen.sde.base import SDE
from sdegen.training.objective import Prepared
from sdegen.training.order import Order
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

Prepare = Callable[[SDE, Tensor, Tensor, RandnLike, Tensor, Tensor], Prepared]
"""Function that prepares the rows of many steps at once: see :meth:`sdegen.training.gradient.Gradient.prepare`."""


class Batch(NamedTuple):
    """The N rows of a step, or of a chunk of a step, for each of R seeds that are trained together.

    Attributes:
        rows: input of the objective; the fields are ``(R, N, *)``.
        y: conditions that the network takes, ``(R, N)`` for classes, else ``(R, N, *)``: see
            :mod:`sdegen.networks.condition`.
        weight: weight of the loss, λ(t) times ``ratio``, ``(R, N)``.
        ratio: uniform density divided by the density of the times, ``(R, N)``.
        total: number of rows of the whole step.
    """

    rows: Prepared
    y: Tensor
    weight: Tensor
    ratio: Tensor
    total: int

    def of(self, seed: int) -> Batch:
        """Returns the rows of the seed with the index ``seed``, without the axis of the seeds."""
        rows = type(self.rows)(*(field[seed] for field in vars(self.rows).values()))
        return Batch(rows, self.y[seed], self.weight[seed], self.ratio[seed], self.total)


class Stream:
    """Batches of all steps, as a function of (seed, step).

    The order of the data in an epoch is a function of (seed, epoch). The times and noises of step k are row ``k % K``
    of the block ``k // K``. K is :attr:`AHEAD`, or fewer if the noise of :attr:`AHEAD` steps has more than
    :attr:`NUMBERS` entries. Other values of these two constants change the result of a seed.

    With S shards, chunk c of shard s is entry s · C + c of the list of a step with C chunks. Shard s has the points s,
    s + S, … of the step. Every process prepares all rows, so that their bits do not depend on the processes.

    Several blocks are prepared together, which makes the preparation of small steps fast. The last batch of an epoch
    may be short: it is padded in the preparation, and cut before it is returned.

    The argument ``points`` has the data of each seed. The data of all seeds have the same size.

    Attributes:
        variant: index of the random stream for the times and the noise: 0, or the number of retries.
        together: largest number of blocks that are prepared together.
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
        shards: int = 1,
    ) -> None:
        self.shards = shards
        self.points, self.prepare, self.weighting, self.times, self.sde = points, prepare, weighting, times, sde
        self.variant = 0
        numbers = times.draws * points[0].numbers
        self.ahead = max(1, min(self.AHEAD, self.NUMBERS // numbers))
        self.together = max(1, min(self.TOGETHER, self.NUMBERS // (numbers * self.ahead * len(points))))

    def steps(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """Yields the chunks of all shards of each step from ``start`` to ``stop``."""
        step = start
        while step < stop:
            blocks = self._blocks_with(step // self.ahead)
            first = blocks.start * self.ahead
            coming = self._prepared(blocks)[step - first : stop - first]
            yield from coming
            step += len(coming)

    def _blocks_with(self, block: int) -> range:
        """Returns the blocks that are prepared together with a block.

        The rounding errors of a row may depend on the rows that are prepared in the same group. The group depends only
        on the block, so that a resumed training has the same bits as an uninterrupted training. The first groups are
        smaller, so that a short training prepares few rows that it does not use.
        """
        count = 1 << (min(self.together, max(block, 1)).bit_length() - 1)
        start = block - block % count
        return range(start, start + count)

    @torch.no_grad()
    def _prepared(self, blocks: range) -> list[list[Batch]]:
        """Returns the chunks of every step of the given blocks."""
        steps = range(blocks.start * self.ahead, blocks.stop * self.ahead)
        sizes = [self.points[0].size(step) for step in steps]
        # A large step is prepared alone. The width is then its size, so that a short step needs no padding.
        shape = (len(self.points), len(steps), self.times.draws, max(sizes))
        key: list[str | int] = ["train", self.variant] if self.variant else ["train"]
        device = self.points[0].device
        sources = [generator(device, points.seed, *key, block) for points in self.points for block in blocks]
        t, ratio = self._times(sources, sizes, shape)
        weight = ratio * self.weighting(self.sde, t)
        data = [points.take(steps, blocks, max(sizes)) for points in self.points]
        x0, y = (torch.stack(part)[:, :, None] for part in zip(*data, strict=True))
        x0, y = (part.expand(*shape, *part.shape[4:]).flatten(0, 3) for part in (x0, y))
        rows = self.prepare(self.sde, x0, t.flatten(), _each(sources), weight.flatten(), y)
        columns = [*vars(rows).values(), y, weight.flatten(), ratio.flatten()]
        columns = [column.unflatten(0, shape).transpose(0, 1) for column in columns]
        draws = [slice(i, i + self.times.chunk) for i in range(0, self.times.draws, self.times.chunk)]
        chunks = [self._cut(type(rows), columns, own, sizes, shard) for shard in range(self.shards) for own in draws]
        return [list(chunks_of_step) for chunks_of_step in zip(*chunks, strict=True)]

    def _times(
        self, sources: Sequence[torch.Generator], sizes: list[int], shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Returns the times and ratios of all rows, ``(R * K, draws, B)`` for K steps of R seeds."""
        first, (seeds, steps, draws, width) = self.points[0], shape
        block = (self.ahead, draws, width)
        u = torch.cat([torch.rand(block, generator=source, device=first.device) for source in sources]).to(first.dtype)
        t, ratio = (part.clone() for part in self.times(self.sde, self.weighting, u))
        # A stratified sampler must spread the times of a short step over its own rows, without the padding.
        if short := [i for i in range(seeds * steps) if sizes[i % steps] < width]:
            size = min(sizes)
            t[short, :, :size], ratio[short, :, :size] = self.times(self.sde, self.weighting, u[short, :, :size])
        return t, ratio

    def _cut(
        self, kind: type[Prepared], columns: Sequence[Tensor], draws: slice, sizes: list[int], shard: int
    ) -> list[Batch]:
        """Returns a chunk of each step without the padding, from columns ``(K, R, draws, B, *)`` of all steps."""
        width, size = max(sizes), min(sizes)
        full, less = slice(shard, width, self.shards), slice(shard, size, self.shards)
        short = [k for k, own in enumerate(sizes) if own < width]
        cut = []
        for column in columns:
            rows = list(column[:, :, draws, full].flatten(2, 3).unbind())
            # All short steps have the same size. It is faster to copy them together than one by one.
            for i, step in enumerate(column[short, :, draws, less].flatten(2, 3).unbind() if short else ()):
                rows[short[i]] = step
            cut.append(rows)
        steps = zip(sizes, *cut, strict=True)
        return [
            Batch(kind(*fields), y, weight, ratio, self.times.draws * size) for size, *fields, y, weight, ratio in steps
        ]


class Points:
    """Data points of the steps of a seed, and the conditions that the network takes.

    The data stay on the device in the type in which they were read. Each batch is converted to the network's units.
    Data on the disk stay there: a batch is copied from mapped memory. If they are shuffled by blocks, a thread reads
    them ahead.

    Args:
        seed: seed of the run.
        dataset: data to train on.
        batch_size: number of data points in a step.
        condition: kind of condition that the network takes; None if it takes none. The conditions are then the labels.
        device: device on which the batches are made.
        dtype: type of the numbers in a batch.
        hides: True to hide some of the conditions, as in a training.
    """

    def __init__(
        self,
        seed: int,
        dataset: Dataset,
        batch_size: int,
        condition: Condition | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        hides: bool = True,
    ) -> None:
        shares = () if condition is None else (condition.label_dropout, condition.value_dropout)
        self.dataset, self.hides = dataset, hides and any(shares)
        self.seed, self.condition, self.device, self.dtype = seed, condition, device, dtype
        self.units = dataset.units
        self.cells = None if dataset.cells is None else dataset.cells.to(device)
        home = torch.device(device if dataset.disk is None else "cpu")
        self.x = x = dataset.x.to(home)
        values = None if condition is None else dataset.encoded_conditions
        self.y = self._conditions(dataset.y, values, len(x)).to(home)
        # Simulated points are new at every step, so a step is an epoch.
        self.rows = batch_size if dataset.fresh else len(x)
        self.per_epoch, self.width = -(-self.rows // batch_size), min(batch_size, self.rows)
        self.numbers = self.width * x[0].numel()
        self.order = Order(seed, self.rows, dataset.block, home)
        disk = None if dataset.block is None else dataset.disk
        self._ahead = None if disk is None else ReadAhead(disk, self.order.blocks)

    def size(self, step: int) -> int:
        """Returns the number of points in a step; the last step of an epoch is short."""
        return min(self.width, self.rows - step % self.per_epoch * self.width)

    def indices(self, steps: range) -> Tensor:
        """Returns the indices ``(K, B)`` of the points of K steps. Short steps are padded with the index 0."""
        rows = [self.order.rows(*places) for places in self._places(steps)]
        return torch.cat([nn.functional.pad(part, (0, -len(part) % self.width)) for part in rows]).view(-1, self.width)

    def rows_of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the points with the given indices, in the user's units, and their conditions, on the device."""
        x, y = self.x[index], self.y[index]
        if self.dataset.disk is not None and torch.device(self.device).type == "cuda":
            # A copy from pinned memory does not wait for the work that the device still has to do.
            x, y = x.pin_memory(), y.pin_memory()
        return x.to(self.device, non_blocking=x.is_pinned()), y.to(self.device, non_blocking=y.is_pinned())

    def _places(self, steps: range) -> Iterator[tuple[int, int, int]]:
        """Yields the epochs of some steps, each with the first place and the end of these steps in its order."""
        while steps:
            epoch, first = divmod(steps.start, self.per_epoch)
            end = min(first + len(steps), self.per_epoch)
            yield epoch, first * self.width, min(end * self.width, self.rows)
            steps = steps[end - first :]

    def _read_ahead(self, steps: range) -> None:
        """Waits until the points of some steps have been read from the disk, and begins to read the next ones."""
        if self._ahead is not None:
            now = [window for places in self._places(steps) for window in self.order.windows(*places)]
            self._ahead.reach(now, self.order.following(now[-1]))

    def take(self, steps: range, blocks: range, width: int) -> tuple[Tensor, Tensor]:
        """Returns the first B points of each of K steps, in the network's units, and their conditions.

        Args:
            steps: K steps.
            blocks: blocks that consist of these steps.
            width: number of points B.

        Returns:
            Points ``(K, B, *)`` and conditions, ``(K, B)`` for classes, else ``(K, B, *)``.
        """
        if self.dataset.fresh:
            x, y = self._simulated(blocks, len(steps), width)
        else:
            self._read_ahead(steps)
            x, y = self.rows_of(self.indices(steps)[:, :width])
        if self.cells is not None:
            # Add uniform noise in the cell of each value. The noise comes from a separate generator, so that all other
            # noise is unchanged.
            x = x.double() + self.cells * self._uniform("dequantisation", x.shape, blocks) - self.cells / 2
        if self.hides and self.condition is not None:
            y = self.condition.hide(y, self._uniform("labels", (len(steps), width), blocks))
        return self.units.encode(x).to(self.dtype), y

    def _conditions(self, labels: Tensor | None, values: Tensor | None, count: int) -> Tensor:
        """Returns the conditions of ``count`` points, or their classes if the network takes no condition."""
        if self.condition is None:
            y = torch.tensor(NONE).expand(count) if labels is None else labels
        else:
            y = self.condition.of(labels, values)
        return y.to(self.dtype if y.is_floating_point() else y.dtype)

    def _simulated(self, blocks: range, steps: int, width: int) -> tuple[Tensor, Tensor]:
        """Draws the points ``(K, B, *)`` of all steps of some blocks, and their conditions, from the simulator."""
        assert self.dataset.simulate is not None and self.dataset.conditions is not None
        count = steps // len(blocks) * width
        pairs = [self.dataset.simulate(count, generator("cpu", self.seed, "simulation", block)) for block in blocks]
        x, c = (torch.cat(part) for part in zip(*pairs, strict=True))
        y = self._conditions(None, self.dataset.conditions.encode(c), len(x))
        return tuple(part.to(self.device).unflatten(0, (steps, width)) for part in (x, y))

    def _uniform(self, purpose: str, shape: Sequence[int], blocks: range) -> Tensor:
        """Draws uniform numbers in a shape ``(K, *)``, for K steps. Each block has its own generator."""
        shape = (shape[0] // len(blocks), *shape[1:])
        sources = [generator(self.device, self.seed, purpose, block) for block in blocks]
        return torch.cat([torch.rand(shape, generator=source, device=self.device) for source in sources])


def _each(sources: Sequence[torch.Generator]) -> RandnLike:
    """Returns a function that draws normal numbers. Each generator draws an equal share of the rows."""
    draws = [randn_like(source) for source in sources]
    return lambda x: torch.cat([draw(part) for draw, part in zip(draws, x.chunk(len(draws)), strict=True)])
