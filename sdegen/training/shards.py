r"""Shards of a step, and the sum of their gradients over the processes of a training.

Shard s of S has the data points s, s + S, s + 2S, … of the batch. Stratified times rise with the row, so that every
shard has times of all noise levels. The gradients of S shards are added in a binary tree: those of neighbours first,
then the sums of neighbouring pairs, and so on. The tree is the same wherever a shard is computed, and addition
commutes. Therefore any number of processes that divides S ends in the same bits, provided that each shard is computed
with the same number of threads.

A layer that keeps statistics of its batch, such as BatchNorm, sees the rows of a shard. Its running statistics after
the step are the mean over the shards. If a layer changes its own trainable weights, such as one that normalises them
before each pass, the weights are those of the first shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.core.processes import Processes
from sdegen.training.buffers import keeps_extra_state
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
        size = processes.size
        if count is not None and (count % size or size & (size - 1)):
            powers = ", ".join(str(1 << k) for k in range(count.bit_length()))
            raise UserError(
                f"trainer.shards={count}: {size} processes cannot share the shards: start {powers} "
                f"process{'es' * (count > 1)}, or set trainer.shards=null"
            )
        self.gradient, self.processes = gradient, processes
        self.count = count or size
        share = self.count // size
        self.own = range(processes.rank * share, (processes.rank + 1) * share)
        self._statistics = _Statistics(gradient.models[0].network if gradient.runs_layers else nn.Identity(), gradient)
        models = len(gradient.models)
        sizes = [self._statistics.size, models * rows, 3]
        rest = gradient.sums.new_zeros(sum(sizes))
        self._changes, losses, self._flags = rest.split(sizes)
        self._losses = losses.view(models, rows)
        # The gradients are added in place, because they may be large, and the rest beside them. Sums of 1, 2, 4, …
        # shards wait for their neighbour.
        self._summed = gradient.sums.view(-1), rest
        self._waiting = [tuple(map(torch.empty_like, self._summed)) for _ in range((share - 1).bit_length())]
        self._spare = tuple(map(torch.empty_like, self._summed)) if count is not None and size > 1 else ()

    def begin(self, points: int) -> None:
        """Begins a step with ``points`` data points."""
        self._filled = min(points, self.count)
        self._statistics.begin()
        self._summed[1].zero_()

    def note(self, first: int, losses: Tensor) -> None:
        """Records the losses ``(R, n)`` of rows of the current shard, of which the first has the index ``first``."""
        self._losses[:, first : first + losses.shape[1]] = losses

    def push(self, shard: int) -> None:
        """Adds the gradients and losses of a shard, and its changes of buffers. Then the next shard can be computed.

        The last shards of a step with few points have no rows.
        """
        if shard < self._filled:
            self._changes.copy_(self._statistics.change())
        index = shard - self.own.start
        for level, waiting in enumerate(self._waiting):
            full = index >> level & 1
            for own, other in zip(self._summed, waiting, strict=True):
                if full:
                    own.add_(other)
                else:
                    other.copy_(own)
                    own.zero_()
            if not full:
                return

    def total(self, pauses: bool, stops: bool) -> tuple[Tensor, bool, bool]:
        """Adds up the sums of all processes, and sets the gradients and buffers of the step.

        Args:
            pauses: True if process 0 does something else after the step.
            stops: True if a signal has asked this process to stop.

        Returns:
            Losses of all rows ``(R, N)``, and True for each argument that is true in at least one process. A process
            that stops pauses, too.
        """
        flags = torch.tensor([float(pauses or stops), float(stops), float(self._statistics.moved)])
        if self._flags.is_cuda:
            # To read them from the device would make the step wait for the device.
            self.processes.add(flags)
        else:
            self._flags.copy_(flags)
            flags = self._flags
        for i, own in enumerate(self._summed):
            if self._spare:
                self.processes.add_in_tree(own, self._spare[i])
            else:
                self.processes.add(own)
        self._statistics.end(self._changes / self._filled)
        self.processes.copy_first(self._statistics.copied)
        paused, stopped, moved = (value > 0 for value in flags.tolist())
        self._statistics.decide(moved)
        return self._losses.clone(), paused, stopped


class _Statistics:
    """State that layers change while they run, which every shard finds as it was before the step.

    Numbers in buffers and frozen parameters become the mean of what the shards leave. Counters, other values and
    trainable weights become those of the first shard.

    Args:
        network: network with the layers.
        gradient: gradient with the trainable weights.

    Attributes:
        size: number of entries of all numbers.
    """

    def __init__(self, network: nn.Module, gradient: Gradient) -> None:
        if own := [type(module).__name__ for module in network.modules() if keeps_extra_state(module)]:
            raise UserError(
                f"network: {own[0]} keeps extra state, which has no mean over shards: keep it in buffers, or train in "
                f"one process with trainer.shards=null"
            )
        # A layer may replace a tensor, so that only its place remains.
        places: list[tuple[dict[str, Any], str]] = [
            (tensors, name)
            for module in network.modules()
            for tensors in (module._buffers, module._parameters)
            for name, tensor in tensors.items()
            if tensor is not None and not tensor.requires_grad
        ]
        self._numbers = [(own, name) for own, name in places if own[name].is_floating_point()]
        self._others = [(own, name) for own, name in places if not own[name].is_floating_point()]
        # Most networks change no weights, which the first step shows.
        self._weights, self._moves, self._first = gradient.weights, gradient.runs_layers, True
        self._shapes = [number.shape for number in _at(self._numbers)]
        self.size = sum(shape.numel() for shape in self._shapes)

    @property
    def copied(self) -> list[Tensor]:
        """Tensors that become those of the first shard."""
        return [*_at(self._others), *([self._weights] if self._moves else [])]

    def begin(self) -> None:
        """Begins a step."""
        self._start = self._flat()
        self._before = [tensor.clone() for tensor in self.copied]
        self._after: list[Tensor] | None = None

    @torch.no_grad()
    def change(self) -> Tensor:
        """Returns the change of all numbers by a shard, ``(size,)``, and undoes it."""
        left = self._flat()
        if len(left) != self.size:
            # The training refuses such a network after the step.
            return torch.zeros_like(self._start)
        self._set(self._start)
        if self._after is None:
            self._after = [tensor.clone() for tensor in self.copied]
        _copy(self.copied, self._before)
        # A running minimum, for example, starts at infinity: its change is not finite.
        return torch.where(self._start.isfinite(), left - self._start, left)

    @torch.no_grad()
    def end(self, change: Tensor) -> None:
        """Ends a step with the mean change of all shards."""
        self._set(torch.where(self._start.isfinite(), self._start + change, change))
        if self._after is not None:
            _copy(self.copied, self._after)

    @property
    def moved(self) -> bool:
        """True if layers have changed trainable weights in the first step."""
        if self._after is None or not (self._first and self._moves):
            return False
        return not torch.equal(self._after[-1], self._before[-1])

    def decide(self, moved: bool) -> None:
        """Decides whether layers change trainable weights in the next steps, from all processes in the first step."""
        self._moves, self._first = moved if self._first else self._moves, False

    def _flat(self) -> Tensor:
        """Returns all numbers as a vector, ``(size,)``."""
        numbers = [number.detach().flatten() for number in _at(self._numbers)]
        return torch.cat(numbers) if numbers else self._weights.new_zeros(0)

    def _set(self, values: Tensor) -> None:
        parts = values.split([shape.numel() for shape in self._shapes])
        _copy(_at(self._numbers), [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)])


def _at(places: Sequence[tuple[dict[str, Any], str]]) -> list[Tensor]:
    """Returns the tensors of modules, each from its dictionary and its name."""
    return [tensors[name] for tensors, name in places]


def _copy(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        if buffer.shape == value.shape:
            buffer.copy_(value)
