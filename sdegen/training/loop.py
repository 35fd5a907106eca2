"""The training loop: one step per batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdegen.core.randomness import own_layers, seed_layers
from sdegen.core.schema import PACKAGE
from sdegen.core.tensors import flatten_parameters
from sdegen.training import optimizer_state
from sdegen.training.batches import Batch, Stream
from sdegen.training.buffers import StateCheck, average_of, follow, repeats
from sdegen.training.gradient import Gradient, weighted_losses
from sdegen.training.history import Diverged, History, LossByTime
from sdegen.training.optimizer import Optimizer
from sdegen.training.trainer import Trainer

logger = logging.getLogger("sdegen")

Log = Callable[[int, list[dict[str, float]]], None]
"""Receives a step and the scalars of each model."""


class Training:
    """Networks under training: their weights and averages as one vector each, and the step that changes them.

    Args:
        gradient: the models, which are trained together, and their gradients.
        optimizer: the recipe of the optimiser.
        trainer: clipping, averaging and intervals.
        stream: the batches.
        steps: the last step.

    Attributes:
        step: steps taken.
        seconds: time spent on steps and their logging, without checkpoints and previews.
    """

    def __init__(self, gradient: Gradient, optimizer: Optimizer, trainer: Trainer, stream: Stream, steps: int) -> None:
        self.gradient, self.recipe, self.trainer, self.stream, self.steps = gradient, optimizer, trainer, stream, steps
        self.models, self.vector = gradient.models, gradient.vector
        self.averages = [average_of(model) for model in self.models]
        self.average_vector = flatten_parameters(p for model in self.averages for p in model.parameters()).data
        self.optimizer = optimizer.build(self.vector)
        self.step, self.seconds, self._weights = 0, 0.0, self.vector.data
        self._history = History(gradient.losses, [LossByTime(model.sde.eps, model.sde.T) for model in self.models])
        self._check_state = StateCheck(self.models[0].network, self._weights)

    def advance(self, chunks: list[Batch]) -> None:
        """Takes one step of gradient descent."""
        gradient = self.gradient
        for part, batch in enumerate(chunks):
            if gradient.runs_layers:
                seed_layers(self.vector.device, *self._layers_key(part))
            self._history.add(self.step, batch, gradient.add(batch))
        norms = torch.linalg.vector_norm(gradient.sums, dim=1, keepdim=True)
        self._history.add_norms(norms)
        if self.trainer.clip is not None:
            gradient.sums.mul_(norms.reciprocal().mul_(self.trainer.clip).clamp_max_(1.0))
        self.recipe.step(self.optimizer, self.recipe.lr_at(self.step, self.steps))
        gradient.sums.zero_()
        decay = min(self.trainer.ema, (1 + self.step) / (10 + self.step))
        self.average_vector.lerp_(self._weights, 1 - decay)
        if gradient.runs_layers:
            if self.step == 0:
                self._check_state()
            for model, average in zip(self.models, self.averages, strict=True):
                follow(model.network, average.network, decay)
        self.step += 1

    def _layers_key(self, part: int) -> tuple[int, str, int, int, int]:
        """Returns the key of the random numbers inside the network, in a chunk of the next step."""
        return self.stream.points[0].seed, "layers", self.stream.variant, self.step, part

    def run(
        self,
        log: Log,
        checkpoint: Callable[[], None],
        preview: Callable[[], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Trains to the last step, calling back at the intervals of the trainer.

        The scalars of a step are logged before its checkpoint, so that a run that is killed and resumed logs each of
        them once.

        Args:
            log: records the scalars.
            checkpoint: saves a checkpoint; called after the last step as well.
            preview: draws samples.
            interrupted: called after every step; if it returns True, the training saves a checkpoint and ends.

        Raises:
            Diverged: the loss or a weight is no longer finite. No checkpoint of this state is saved.
        """
        trainer, since = self.trainer, time.perf_counter()
        logged, reported = self.seconds, self.step
        # The caller keeps its own random numbers.
        with own_layers(self.vector.device, self.stream.points[0].seed, "layers"):
            for chunks in self.stream.steps(self.step, self.steps):
                if self.step == 1:
                    self._warn_of_hidden_state(chunks[0])
                self.advance(chunks)
                stop = interrupted()
                if self._is_due(trainer.log_every):
                    seconds = self.seconds + time.perf_counter() - since
                    self._log(log, (self.step - reported) / (seconds - logged))
                    logged, reported = seconds, self.step
                due, previewed = self._is_due(trainer.checkpoint_every) or stop, self._is_due(trainer.preview_every)
                if due or previewed:
                    self.seconds += time.perf_counter() - since
                    self._check()
                    if previewed:
                        preview()
                    if due:
                        checkpoint()
                    since = time.perf_counter()
                if stop:
                    return

    def _log(self, log: Log, steps_per_second: float) -> None:
        rate = self.recipe.lr_at(self.step - 1, self.steps)
        shared = {"train/learning_rate": rate, "train/steps_per_second": steps_per_second}
        log(self.step, [{**own, **shared} for own in self._history.read()])

    @property
    def saves(self) -> bool:
        """True at the steps of the trainer's checkpoints; False at those that only an interruption saves."""
        return self.step == 0 or self._is_due(self.trainer.checkpoint_every)

    def _is_due(self, every: int) -> bool:
        """True every ``every`` steps and at the last one; never if ``every`` is 0."""
        return every > 0 and (self.step % every == 0 or self.step == self.steps)

    def _check(self) -> None:
        """Raises :class:`Diverged` if a loss, a gradient or a weight is not finite."""
        self._check_state()
        self._history.check()
        for replica, weights in enumerate(self.gradient.weights):
            if not bool(weights.isfinite().all()):
                raise Diverged(
                    f"weights are infinite after step {self.step}, whose loss was still finite: try a lower "
                    f"optimizer.lr",
                    replica,
                )

    def state(self, replica: int) -> dict[str, Any]:
        """Returns the optimiser's state of a model, as it would be if the model were alone."""
        return optimizer_state.of_model(self.optimizer.state_dict(), replica, self.gradient.weights.shape)

    def history(self, replica: int) -> dict[str, Tensor]:
        """Returns the records of a model's steps since the last scalars."""
        return self._history.state(replica)

    def restore(
        self,
        states: Sequence[dict[str, Any]],
        histories: Sequence[dict[str, Tensor]],
        step: int,
        seconds: float,
        variant: int,
    ) -> None:
        """Continues from a step, whose weights are already loaded.

        Args:
            states: the optimiser's state of each model.
            histories: as :meth:`history` returned them.
            step: steps taken.
            seconds: time spent on them.
            variant: the stream's variant.

        Raises:
            UserError: the states are not of this optimiser and these networks.
        """
        optimizer_state.load(self.optimizer, self.recipe, states)
        device = self.vector.device
        self._history.restore([{name: x.to(device) for name, x in own.items()} for own in histories], step)
        self.gradient.sums.zero_()
        self.step, self.seconds, self.stream.variant = step, seconds, variant

    def _warn_of_hidden_state(self, batch: Batch) -> None:
        """Logs a warning if a network of the user's own keeps state that no checkpoint would hold."""
        gradient, kind = self.gradient, type(self.models[0].network)
        if not gradient.runs_layers or kind.__module__.partition(".")[0] == PACKAGE:
            return
        objective, device = gradient.objective, self.vector.device
        with torch.set_grad_enabled(objective.differentiates):
            found = repeats(
                self.models[0],
                self.averages[0],
                partial(weighted_losses, objective=objective, batch=batch),
                lambda: own_layers(device, *self._layers_key(0)),
            )
        if not found:
            logger.warning(
                f"network: {kind.__name__} gives another loss with the same weights and seed: it keeps numbers outside "
                f"of its state_dict, or draws from a generator other than torch's, so that neither seed nor resume= "
                f"reproduces its weights: use register_buffer() and torch's generator"
            )
