r"""Shards of a step, and the sum of their gradients over the processes of a training.

Shard s of S has the data points s, s + S, s + 2S, … of the batch. Stratified times rise with the row, so that every
shard has times of all noise levels. The gradients of S shards are added in a binary tree: those of neighbours first,
then the sums of neighbouring pairs, and so on. The tree is the same wherever a shard is computed, and addition
commutes. Therefore any number of processes that divides S ends in the same bits, provided that each shard is computed
with the same number of threads.

A layer that keeps statistics of its batch, such as BatchNorm, sees the rows of a shard. Its running statistics after
the step are the mean over the shards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.core.processes import Processes
from sdegen.training.gradient import Gradient


class Shards:
    """Sums over the shards of a step: gradients, losses, and changes of the network's buffers.

    Args:
        gradient: gradients of the models.
        rows: largest number of rows of a step, for each model.
        count: number S of shards; None for one shard in each process, whose gradients are added in any order.
        processes: processes that share the shards.

    Attributes:
        own: indices of the shards that this process computes.

    Raises:
        UserError: the processes cannot share the shards, or the network keeps state that has no mean.
    """

    def __init__(self, gradient: Gradient, rows: int, count: int | None, processes: Processes) -> None:
        size, network = processes.size, gradient.models[0].network
        if count is not None and (count % size or size & (size - 1)):
            powers = ", ".join(str(1 << k) for k in range(count.bit_length()))
            raise UserError(
                f"trainer.shards={count}: {size} processes cannot share the shards: start {powers} processes, or set "
                f"trainer.shards=null"
            )
        self.gradient, self.processes = gradient, processes
        self.in_tree, self.count = count is not None, count or size
        share = self.count // size
        self.own = range(processes.rank * share, (processes.rank + 1) * share)
        self._statistics = _Statistics(network if gradient.runs_layers else nn.Identity())
        models = len(gradient.models)
        sizes = [gradient.sums.numel(), self._statistics.size, models * rows, 2]
        # One vector has all sums, so that a step needs one exchange.
        self._vector = gradient.sums.new_zeros(sum(sizes))
        self._sums, self._changes, losses, self._flags = self._vector.split(sizes)
        self._losses = losses.view(models, rows)
        # Sums of 1, 2, 4, … shards that wait for their neighbour.
        self._waiting = [torch.empty_like(self._vector) for _ in range((share - 1).bit_length())]

    def begin(self, points: int) -> None:
        """Begins a step with ``points`` data points."""
        self._filled = min(points, self.count)
        self._statistics.begin()
        self._vector.zero_()

    def note(self, first: int, losses: Tensor) -> None:
        """Records the losses ``(R, n)`` of rows of the current shard, of which the first has the index ``first``."""
        self._losses[:, first : first + losses.shape[1]] = losses

    def push(self, shard: int) -> None:
        """Adds the gradients and losses of a shard, and its changes of buffers. Then the next shard can be computed.

        The last shards of a step with few points have no rows.
        """
        self._sums.copy_(self.gradient.sums.flatten())
        self.gradient.sums.zero_()
        if shard < self._filled:
            self._changes.copy_(self._statistics.change())
        index = shard - self.own.start
        for level, waiting in enumerate(self._waiting):
            if not index >> level & 1:
                waiting.copy_(self._vector)
                self._vector.zero_()
                return
            self._vector.add_(waiting)

    def total(self, pauses: bool, stops: bool) -> tuple[Tensor, bool, bool]:
        """Adds up the sums of all processes, and sets the gradients and buffers of the step.

        Args:
            pauses: True if process 0 does something else after the step.
            stops: True if a signal has asked this process to stop.

        Returns:
            Losses of all rows ``(R, N)``, and True for each argument that is true in at least one process.
        """
        flags = torch.tensor([float(pauses), float(stops)])
        if self._vector.is_cuda:
            # To read them from the device would make the step wait for the device.
            self.processes.add(flags)
        else:
            self._flags.copy_(flags)
            flags = self._flags
        if self.in_tree:
            self.processes.add_in_tree(self._vector)
        else:
            self.processes.add(self._vector)
        self.gradient.sums.copy_(self._sums.view_as(self.gradient.sums))
        self._statistics.end(self._changes / self._filled)
        self.processes.copy_first(self._statistics.others)
        paused, stopped = (value > 0 for value in flags.tolist())
        return self._losses.clone(), paused, stopped


class _Statistics:
    """Buffers of a network, which every shard finds as they were before the step.

    Numbers become the mean of what the shards leave. Counters and other values become those of the first shard.

    Attributes:
        size: number of entries of all numbers.
        others: buffers that are not numbers.
    """

    def __init__(self, network: nn.Module) -> None:
        if own := [
            type(m).__name__ for m in network.modules() if type(m).get_extra_state is not nn.Module.get_extra_state
        ]:
            raise UserError(
                f"network: {own[0]} keeps extra state, which has no mean over shards: keep it in buffers, or train in "
                f"one process with trainer.shards=null"
            )
        buffers = list(network.buffers())
        self.numbers = [buffer for buffer in buffers if buffer.is_floating_point()]
        self.others = [buffer for buffer in buffers if not buffer.is_floating_point()]
        self.size = sum(buffer.numel() for buffer in self.numbers)

    def begin(self) -> None:
        """Begins a step."""
        self._start = _flat(self.numbers)
        self._before = [other.clone() for other in self.others]
        self._after: list[Tensor] | None = None

    def change(self) -> Tensor:
        """Returns the change of all numbers by a shard, ``(size,)``, and takes it back."""
        left = _flat(self.numbers)
        self._set(self._start)
        if self._after is None:
            self._after = [other.clone() for other in self.others]
        _copy(self.others, self._before)
        # A running minimum, for example, starts at infinity: its change is not finite.
        return torch.where(self._start.isfinite(), left - self._start, left)

    def end(self, change: Tensor) -> None:
        """Ends a step with the mean change of all shards."""
        self._set(torch.where(self._start.isfinite(), self._start + change, change))
        if self._after is not None:
            _copy(self.others, self._after)

    def _set(self, values: Tensor) -> None:
        sizes = [buffer.numel() for buffer in self.numbers]
        _copy(self.numbers, [part.view_as(b) for part, b in zip(values.split(sizes), self.numbers, strict=True)])


def _flat(buffers: Sequence[Tensor]) -> Tensor:
    """Returns the entries of all buffers, ``(size,)``."""
    return torch.cat([buffer.detach().flatten() for buffer in buffers]) if buffers else torch.zeros(0)


def _copy(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
