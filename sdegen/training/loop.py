"""The training loop: one step per batch."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.core import processes
from sdegen.core.randomness import own_layers, seed_layers
from sdegen.core.schema import PACKAGE
from sdegen.networks import Network
from sdegen.training.averages import Average, power, ramp
from sdegen.training.batches import Batch, Stream
from sdegen.training.buffers import check_state, layout, repeats
from sdegen.training.gradient import Gradient, Model, weighted_losses
from sdegen.training.history import Diverged, History
from sdegen.training.optimizer import Optimizer, load_states, state_of_model
from sdegen.training.shards import Shards
from sdegen.training.trainer import Trainer

logger = logging.getLogger("sdegen")

Log = Callable[[int, list[dict[str, float]]], None]
"""Function that receives a step and the scalars of each model."""
SNAPSHOTS = 32
"""Number of snapshots of the averages of ``trainer.widths`` in a long training; a short one has one after each step."""


class Training:
    """Training of one or more networks: weights, moving averages and optimiser.

    Args:
        gradient: models that are trained together, and their gradients.
        optimizer: recipe for the optimiser.
        trainer: options, such as clipping, averaging and intervals.
        stream: batches of all steps.
        steps: number of the last step.

    Attributes:
        averages: models with the moving average of the weights.
        average_vector: trainable parameters of these models.
        tracked: averages of power form, by width.
        step: number of steps taken.
        steps: number of the last step.
        seconds: time spent on steps and their logging, without held-out losses, checkpoints and previews.
        paused: True while the other processes wait for process 0.
        stopped: True if a signal has asked a process to stop.
    """

    def __init__(self, gradient: Gradient, optimizer: Optimizer, trainer: Trainer, stream: Stream, steps: int) -> None:
        self.gradient, self.recipe, self.trainer, self.stream, self.steps = gradient, optimizer, trainer, stream, steps
        self.models, self.vector = gradient.models, gradient.vector
        self._average = Average(self.models, ramp(trainer.ema))
        self.averages, self.average_vector = self._average.models, self._average.vector
        self.tracked = {width: Average(self.models, power(width)) for width in trainer.widths or ()}
        self._snapshot_every = max(1, steps // SNAPSHOTS) if self.tracked else 0
        self.optimizer = optimizer.build(self.vector)
        self.step, self.seconds, self._weights = 0, 0.0, self.vector.data
        self.processes, rows = processes.present(), stream.times.draws * stream.points[0].width
        self._shards = (
            Shards(gradient, rows, trainer.shards, self.processes)
            if max(stream.shards, self.processes.size) > 1
            else None
        )
        # The losses of shards are computed at each step, because other processes need them.
        losses = gradient.losses if self._shards is None else lambda losses: losses
        self._history = History(losses, len(self.models), stream.sde.eps, stream.sde.T)
        self.paused, self.stopped = True, False
        self._coming: Iterator[list[Batch]] | None = None
        self._layout = layout(self.models[0].network)
        self._learned = stream.weighting.learned(stream.sde, gradient.weights)

    def advance(self, chunks: list[Batch], pauses: bool = False, stops: bool = False) -> None:
        """Takes one step of the optimiser.

        Args:
            chunks: parts of the batch.
            pauses: True if this process does something else after the step, so that the others wait for it.
            stops: True if a signal has asked this process to stop.
        """
        gradient = self.gradient
        found = self._alone(chunks) if self._shards is None else self._shared(self._shards, chunks, pauses, stops)
        for batch, parts in zip(chunks, found, strict=True):
            self._history.add(self.step, batch, parts)
            if self._learned is not None:
                losses = gradient.losses(*parts) if self._shards is None else parts[0]
                self._learned.add(batch.rows.t, batch.weight, losses, batch.total)
        norms = torch.linalg.vector_norm(gradient.sums, dim=1, keepdim=True)
        self._history.add_norms(norms)
        if self.trainer.clip is not None:
            gradient.sums.mul_(norms.reciprocal().mul_(self.trainer.clip).clamp_max_(1.0))
        self.recipe.step(self.optimizer, self.recipe.lr_at(self.step, self.steps))
        gradient.sums.zero_()
        if gradient.runs_layers and self.step == 0:
            check_state(self.models[0].network, self._layout, self._weights)
        for average in (self._average, *self.tracked.values()):
            average.follow(self.step + 1, self._weights, self.models if gradient.runs_layers else ())
        if self._learned is not None:
            self._learned.advance(self.step)
        self.step += 1

    def _alone(self, chunks: list[Batch]) -> Iterator[tuple[Tensor, ...]]:
        """Adds the gradients of all chunks; yields the result of :meth:`Gradient.add` for each chunk."""
        for part, batch in enumerate(chunks):
            yield self._add(part, batch)

    def _shared(self, shards: Shards, chunks: list[Batch], pauses: bool, stops: bool) -> Iterator[tuple[Tensor, ...]]:
        """Adds the gradients of all shards, those of other processes included; yields the losses of each chunk."""
        sizes = [batch.weight.shape[1] for batch in chunks]
        ends = list(itertools.accumulate(sizes))
        each = len(chunks) // shards.count
        shards.begin(chunks[0].total // self.stream.times.draws)
        for shard in shards.own:
            for part in range(shard * each, (shard + 1) * each):
                if sizes[part]:
                    losses = self.gradient.losses(*self._add(part, chunks[part]))
                    shards.note(ends[part] - sizes[part], losses)
            shards.push(shard)
        losses, self.paused, self.stopped = shards.total(pauses, stops)
        return ((own,) for own in losses[:, : ends[-1]].split(sizes, dim=1))

    def _add(self, part: int, batch: Batch) -> tuple[Tensor, ...]:
        """Adds the gradient of chunk ``part`` of the step; returns the result of :meth:`Gradient.add`."""
        if self.gradient.runs_layers:
            seed_layers(self.vector.device, *self._layers_key(part))
        return self.gradient.add(batch, self.factor(batch))

    def factor(self, batch: Batch) -> Tensor | None:
        """Returns the learned factor of each row's weight, ``(R, N)``; None if the weighting has no such factor."""
        return None if self._learned is None else self._learned.factor(batch.rows.t)

    def _layers_key(self, part: int) -> tuple[int, str, int, int, int]:
        """Returns the key of the random numbers that layers draw in chunk ``part`` of the next step."""
        return self.stream.points[0].seed, "layers", self.stream.variant, self.step, part

    def run(
        self,
        log: Log,
        checkpoint: Callable[[], None],
        preview: Callable[[], None],
        interrupted: Callable[[], bool] = lambda: False,
        evaluate: Callable[[], None] = lambda: None,
        evaluate_every: int = 0,
        snapshot: Callable[[], None] = lambda: None,
    ) -> None:
        """Trains to the last step, and calls the functions below at the intervals of the trainer.

        The scalars of a step are logged before the checkpoint, so that a resumed run does not log them again.

        Args:
            log: function that records the scalars.
            checkpoint: function that saves a checkpoint; called after the last step as well.
            preview: function that draws samples.
            interrupted: function called after every step. If it returns True, the training saves a checkpoint and ends.
            evaluate: function that computes held-out losses; it may end the training with :meth:`finish`.
            evaluate_every: number of steps between held-out losses; 0 for none.
            snapshot: function that saves a snapshot of :attr:`tracked`. It is called before a checkpoint of the step.

        Raises:
            Diverged: a loss, gradient or weight is no longer finite. No checkpoint of this state is saved.
        """
        trainer, since = self.trainer, time.perf_counter()
        logged, reported, last = self.seconds, self.step, self.steps
        alone = self.processes.size == 1
        # This context leaves the random numbers of the caller unchanged.
        with own_layers(self.vector.device, self.stream.points[0].seed, "layers"):
            for chunks in self.stream.steps(self.step, self.steps):
                if self.step == 1:
                    self._warn_of_hidden_state(chunks[0])
                if alone:
                    self.advance(chunks)
                else:
                    self._lead(chunks, evaluate_every, interrupted())
                if self._is_due(evaluate_every):
                    self.seconds += time.perf_counter() - since
                    self._check()
                    evaluate()
                    since = time.perf_counter()
                # If the other processes do not wait, they will take the next step, too.
                stop = self.stopped or ((alone or self.paused) and interrupted())
                if self._is_due(trainer.log_every):
                    seconds = self.seconds + time.perf_counter() - since
                    shared = {
                        "train/learning_rate": self.recipe.lr_at(self.step - 1, last),
                        "train/steps_per_second": (self.step - reported) / (seconds - logged),
                    }
                    log(self.step, [{**own, **shared} for own in self._history.read()])
                    logged, reported = seconds, self.step
                due, previewed = self._is_due(trainer.checkpoint_every) or stop, self._is_due(trainer.preview_every)
                kept = self._is_due(self._snapshot_every)
                if due or previewed or kept:
                    self.seconds += time.perf_counter() - since
                    self._check()
                    if kept:
                        snapshot()
                    if previewed:
                        preview()
                    if due:
                        checkpoint()
                    since = time.perf_counter()
                if stop or self.step == self.steps:
                    return

    def _lead(self, chunks: list[Batch], evaluate_every: int, asked: bool) -> None:
        """Takes a step with the other processes. They wait after it if this process does something else after it."""
        trainer = self.trainer
        every = (
            evaluate_every,
            trainer.log_every,
            trainer.checkpoint_every,
            trainer.preview_every,
            self._snapshot_every,
        )
        if self.paused:
            self.processes.call("follow")
        self.advance(chunks, asked or any(self._is_due(n, self.step + 1) for n in every), asked)
        if self.paused:
            self.processes.returned()

    def follow(self, interrupted: Callable[[], bool]) -> None:
        """Takes steps with process 0, until process 0 pauses. For the other processes."""
        with own_layers(self.vector.device, self.stream.points[0].seed, "layers"):
            self._coming = self._coming or self.stream.steps(self.step, self.steps)
            for chunks in self._coming:
                self.advance(chunks, stops=interrupted())
                self._history.forget()
                if self.paused:
                    return

    def finish(self) -> None:
        """Makes the current step the last one."""
        self.steps = self.step

    @property
    def saves(self) -> bool:
        """True at the steps of regular checkpoints; False if only an interruption causes a checkpoint."""
        return self.step == 0 or self._is_due(self.trainer.checkpoint_every)

    def _is_due(self, every: int, step: int | None = None) -> bool:
        """Returns True every ``every`` steps and at the last step, but never if ``every`` is 0."""
        step = self.step if step is None else step
        return every > 0 and (step % every == 0 or step == self.steps)

    def _check(self) -> None:
        """Raises :class:`Diverged` if a loss, a gradient or a weight is not finite."""
        check_state(self.models[0].network, self._layout, self._weights)
        self._history.check()
        for replica, weights in enumerate(self.gradient.weights):
            if not bool(weights.isfinite().all()):
                message = f"the weights are not finite after step {self.step}, although the loss is finite"
                raise Diverged(f"{message}: try a lower optimizer.lr", replica)

    def state(self, replica: int) -> dict[str, Any]:
        """Returns the optimiser's state for a model, in the form for a training of this model alone."""
        return state_of_model(self.optimizer.state_dict(), replica, self.gradient.weights.shape)

    def shared(self) -> dict[str, Any]:
        """Returns all that the other processes need to continue from the present step with :meth:`take`."""
        return {
            "networks": [network.state_dict() for network in self._networks()],
            "optimizer": [self.state(replica) for replica in range(len(self.models))],
            "weighting": [self.weighting(replica) for replica in range(len(self.models))],
            "step": self.step,
            "variant": self.stream.variant,
        }

    def take(self, state: dict[str, Any]) -> None:
        """Takes the state of another process, as :meth:`shared` returned it."""
        for network, own in zip(self._networks(), state["networks"], strict=True):
            network.load_state_dict(own)
        load_states(self.optimizer, self.recipe, state["optimizer"])
        if self._learned is not None:
            self._learned.restore(state["weighting"])
        self._history.forget()
        self.gradient.sums.zero_()
        self.step, self.stream.variant, self.paused, self._coming = state["step"], state["variant"], True, None

    def _networks(self) -> list[Network]:
        """Returns the networks under training, and then those with averaged weights."""
        averages = [self._average, *self.tracked.values()]
        return [model.network for models in (self.models, *(own.models for own in averages)) for model in models]

    def history(self, replica: int) -> dict[str, Tensor]:
        """Returns the records of a model since the scalars were last logged."""
        return self._history.state(replica)

    def weighting(self, replica: int) -> dict[str, Tensor]:
        """Returns the learned factor of a model's weighting; empty if the weighting has no such factor."""
        return {} if self._learned is None else self._learned.state(replica)

    def restore(
        self,
        states: Sequence[dict[str, Any]],
        histories: Sequence[dict[str, Tensor]],
        weightings: Sequence[dict[str, Tensor]],
        step: int,
        seconds: float,
        variant: int,
    ) -> None:
        """Restores a training at a step. The weights must already be loaded.

        Args:
            states: optimiser's state for each model.
            histories: records of each model, as :meth:`history` returned them.
            weightings: learned factor of each model, as :meth:`weighting` returned it.
            step: number of steps taken.
            seconds: time spent on these steps.
            variant: number of the stream of times and noises: see :class:`~sdegen.training.batches.Stream`.

        Raises:
            UserError: the states do not fit the optimiser and the networks.
        """
        load_states(self.optimizer, self.recipe, states)
        device = self.vector.device
        self._history.restore([{name: x.to(device) for name, x in own.items()} for own in histories], step)
        if self._learned is not None:
            self._learned.restore(weightings)
        self.gradient.sums.zero_()
        self.step, self.seconds, self.stream.variant, self._coming = step, seconds, variant, None

    def _warn_of_hidden_state(self, batch: Batch) -> None:
        """Logs a warning if a network outside of the package keeps state that a checkpoint does not store."""
        objective, kind = self.gradient.objective, type(self.models[0].network)
        if not self.gradient.runs_layers or kind.__module__.partition(".")[0] == PACKAGE:
            return

        def loss(model: Model) -> Tensor:
            with own_layers(self.vector.device, *self._layers_key(0)), torch.set_grad_enabled(objective.differentiates):
                return weighted_losses(model, objective, batch).detach()

        if not repeats(self.models[0], self.averages[0], loss):
            logger.warning(
                f"network: {kind.__name__} gives different losses with the same weights and seed, because it keeps "
                f"numbers outside of its state_dict or does not use torch's random generator: a repeated or resumed "
                f"run would differ: use register_buffer() and torch's generator"
            )
