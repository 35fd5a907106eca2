"""Order in which the epochs of a training visit the points."""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import generator

MIXED = 256
"""Number of blocks whose points are mixed: a window."""


class Window(NamedTuple):
    """Window of an epoch, by its number."""

    epoch: int
    number: int


class Plan(NamedTuple):
    """Blocks of an epoch in their order, ``(K, 2)`` with the first row and the end of each, and bounds of the windows.

    Window i has the places from ``bounds[i]`` to ``bounds[i + 1]`` in the order of the epoch.
    """

    blocks: Tensor
    bounds: list[int]


class Order:
    """Order of N points in each epoch, as a function of (seed, epoch). Each epoch visits each point once.

    Without blocks, every order is equally likely. With blocks, the points are cut into blocks of neighbours, the blocks
    are put in random order, and the points of :data:`MIXED` successive blocks, a window, are put in random order. The
    first block has a random length in each epoch, so that the same points do not always share a block. Memory is needed
    for the points of one window only.

    Args:
        seed: seed of the order.
        count: number of points N.
        block: number of points in a block; None for no blocks.
        device: device of the results.
    """

    def __init__(
        self, seed: int, count: int, block: int | None = None, device: torch.device | str | None = None
    ) -> None:
        self.seed, self.count, self.block, self.device = seed, count, block, device
        # Keep the last window, because successive calls often need the same one.
        self._plan, self._rows = functools.lru_cache(1)(self._planned), functools.lru_cache(1)(self._mixed)

    def rows(self, epoch: int, start: int, stop: int) -> Tensor:
        """Returns the indices of the points at the places from ``start`` to ``stop`` in the order of an epoch."""
        bounds = self._plan(epoch).bounds
        parts = [
            self._rows(window)[max(start - bounds[window.number], 0) : stop - bounds[window.number]]
            for window in self.windows(epoch, start, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def windows(self, epoch: int, start: int, stop: int) -> list[Window]:
        """Returns the windows with the places from ``start`` to ``stop`` in the order of an epoch."""
        bounds = self._plan(epoch).bounds
        return [Window(epoch, i) for i in range(bisect_right(bounds, start) - 1, bisect_left(bounds, stop))]

    def following(self, window: Window) -> Window:
        """Returns the window after another one, in the same epoch or in the next one."""
        last = window.number == len(self._plan(window.epoch).bounds) - 2
        return Window(window.epoch + 1, 0) if last else window._replace(number=window.number + 1)

    def blocks(self, window: Window) -> list[tuple[int, int]]:
        """Returns the first row and the end of each block of a window, ascending."""
        own = self._plan(window.epoch).blocks[window.number * MIXED : (window.number + 1) * MIXED]
        return sorted((first, end) for first, end in own.tolist())

    def _planned(self, epoch: int) -> Plan:
        if self.block is None:
            return Plan(torch.tensor([[0, self.count]]), [0, self.count])
        source = generator("cpu", self.seed, "blocks", epoch)
        first = min(int(torch.randint(1, self.block + 1, (), generator=source)), self.count)
        edges = torch.arange(first, self.count, self.block)
        edges = torch.cat([edges.new_zeros(1), edges, edges.new_tensor([self.count])])
        blocks = torch.stack([edges[:-1], edges[1:]], dim=1)[torch.randperm(len(edges) - 1, generator=source)]
        ends = (blocks[:, 1] - blocks[:, 0]).cumsum(0)
        return Plan(blocks, [0, *ends[MIXED - 1 : -1 : MIXED].tolist(), self.count])

    def _mixed(self, window: Window) -> Tensor:
        """Returns the indices of the points of a window in their order."""
        if self.block is None:
            order = torch.randperm(self.count, generator=generator("cpu", self.seed, "epoch", window.epoch))
            return order.to(self.device)
        rows = torch.cat([torch.arange(first, end) for first, end in self.blocks(window)])
        order = torch.randperm(len(rows), generator=generator("cpu", self.seed, "epoch", *window))
        return rows[order].to(self.device)
