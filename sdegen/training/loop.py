"""The training loop: linear, one step per batch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.core.randomness import own_layers, seed_layers
from sdegen.core.schema import PACKAGE
from sdegen.core.tensors import flatten_parameters
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.training.batches import Batch, Stream
from sdegen.training.buffers import duplicate, follow, layout, repeats, replaced
from sdegen.training.gradient import Autograd, Gradient
from sdegen.training.history import Diverged, History, LossByTime
from sdegen.training.optimizer import Optimizer

logger = logging.getLogger("sdegen")

STEPS = 12_000
"""Steps of a training that nobody has limited: for points and the default network half a minute on two cores."""
GRAIN = 4e6
"""Multiplications and additions that are worth a thread: measured by ``scripts/benchmark.py scaling``."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


class Trainer:
    """How long, how large and where a training runs.

    Args:
        epochs: passes over the data, where ``steps`` is no number.
        steps: number of steps; null for what ``epochs`` asks; ``auto`` for that too, or for :data:`STEPS` where
            ``epochs`` is null.
        batch_size: data points in a step; the last batch of an epoch is short.
        clip: largest norm of the gradient; null for no clipping.
        ema: decay of the moving average of the weights, in [0, 1); it starts lower, so that early steps fade.
        checkpoint_every: steps between checkpoints; there is always one at the beginning and at the end.
        keep: how many checkpoints to keep beside the one that is the best on held-out points; null for all.
        retries: how often a training whose numbers are no longer finite goes back to its last checkpoint and takes
            other times and noises from there.
        preview_every: steps between preview samples in TensorBoard; 0 for none.
        log_every: steps between scalars in TensorBoard.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        precision: ``float32``, ``float64``, or ``bfloat16``, which runs the network under autocast.
        threads: CPU threads of torch, fewer where OMP_NUM_THREADS allows fewer. ``auto``: one for each :data:`GRAIN`
            of arithmetic in a pass of a step's rows through the network, up to the number of cores: a tiny network is
            several times slower with two than with one.
        replicas: networks trained together: the run and those of the seeds that follow its own, each as it would be by
            itself, in less time than one by one. For what the gradient is written out for alone.
        gradient: ``autograd``; ``written``, out by hand for a multilayer perceptron under denoising score matching, and
            two to three times as fast; ``auto``, where there is one the latter. They differ by rounding.
    """

    def __init__(
        self,
        epochs: int | None = None,
        steps: int | Literal["auto"] | None = "auto",
        batch_size: int = 256,
        clip: float | None = 1.0,
        ema: float = 0.999,
        checkpoint_every: int = 2000,
        keep: int | None = 5,
        retries: int = 0,
        preview_every: int = 4000,
        log_every: int = 200,
        device: str = "auto",
        precision: Literal["float32", "float64", "bfloat16"] = "float32",
        threads: int | Literal["auto"] = "auto",
        gradient: Literal["auto", "autograd", "written"] = "auto",
        replicas: int = 1,
    ) -> None:
        if epochs is None and steps is None:
            raise ValueError("steps and epochs are both null: give one of them")
        steps = enough(epochs) if steps == "auto" else steps
        for name, value, least in (
            ("epochs", epochs, 1),
            ("steps", steps, 1),
            ("batch_size", batch_size, 1),
            ("checkpoint_every", checkpoint_every, 1),
            ("keep", keep, 1),
            ("retries", retries, 0),
            ("preview_every", preview_every, 0),
            ("log_every", log_every, 1),
            ("replicas", replicas, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if replicas > 1024:
            raise ValueError(f"replicas={replicas} must be at most 1024")
        if retries and replicas > 1:
            raise ValueError(f"retries={retries} is for one network, and replicas={replicas}: train them one by one")
        if isinstance(threads, int) and not 1 <= threads <= 1024:
            raise ValueError(f"threads={threads} must lie between 1 and 1024")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip={clip:g} must be above 0, or null for no clipping")
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema:g} must be at least 0 and below 1")
        self.epochs, self.steps, self.batch_size, self.clip, self.ema = epochs, steps, batch_size, clip, ema
        self.checkpoint_every, self.preview_every, self.log_every = checkpoint_every, preview_every, log_every
        self.keep, self.retries = keep, retries
        self.device, self.precision = find_device(device), precision
        self.gradient, self.replicas = gradient, replicas
        self.threads = threads

    @property
    def sampling_precision(self) -> Literal["float32", "float64"]:
        """The precision in which the trained network samples: that of its weights."""
        return "float64" if self.precision == "float64" else "float32"

    def threads_for(self, work: float) -> int:
        """CPU threads for a pass of ``work`` multiplications and additions through the network."""
        if self.threads != "auto":
            return min(self.threads, threads_allowed() or self.threads)
        cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1024)
        return max(1, min(int(work / GRAIN), cores, threads_allowed() or cores))

    def total(self, points: int) -> int:
        """The number of steps over a data set of ``points`` points."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * -(-points // self.batch_size)


def enough(epochs: int | None) -> int | None:
    """The steps that ``auto`` stands for: null where epochs are asked for."""
    return STEPS if epochs is None else None


def find_device(name: str) -> torch.device:
    """The device that a name stands for; ValueError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name} is not a device: try auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name} is not supported: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name} is not on this machine: try device=auto")
    return device


def threads_allowed() -> int | None:
    """How many threads the environment allows to each process, as a launcher of several jobs at once sets it."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else None


class Training:
    """Networks under training: their weights and averages as one vector each, and the step that changes them.

    Usually one network. Of several, the replicas, each is trained as it would be by itself.

    Args:
        models: the score models or classifiers; trained in place, on their device.
        gradient: of the loss of a batch.
        optimizer: the recipe of the optimiser.
        trainer: clipping, averaging and precision.
        stream: the batches.
        steps: the last step.

    Attributes:
        step: steps taken.
        seconds: time spent on steps and their logging, without checkpoints and previews.
    """

    def __init__(
        self,
        models: Sequence[ScoreModel | ClassifierModel],
        gradient: Gradient,
        optimizer: Optimizer,
        trainer: Trainer,
        stream: Stream,
        steps: int,
    ) -> None:
        self.models, self.averages = models, [average_of(model) for model in models]
        self.gradient, self.recipe, self.trainer, self.stream = gradient, optimizer, trainer, stream
        self.vector = flatten_parameters(p for model in models for p in model.parameters())
        self.average_vector = flatten_parameters(p for model in self.averages for p in model.parameters()).data
        self.optimizer = optimizer.build(self.vector)
        self.steps, self.step, self.seconds = steps, 0, 0.0
        assert self.vector.grad is not None
        self._weights, self._gradient = self.vector.data, self.vector.grad
        self._rows = self._gradient.view(len(models), len(self._gradient) // len(models))
        gradient.bind(models, self._weights.view_as(self._rows), self._rows)
        self._history = History(gradient.losses, [LossByTime(model.sde.eps, model.sde.T) for model in models])
        self._layout = layout(models[0].network)

    def advance(self, chunks: list[Batch]) -> None:
        """One step of gradient descent."""
        for part, batch in enumerate(chunks):
            if self.gradient.runs_layers:
                seed_layers(self.vector.device, *self._key(part))
            self._history.add(self.step, batch, self.gradient.add(batch))
        norms = torch.linalg.vector_norm(self._rows, dim=1, keepdim=True)
        self._history.norms.append(norms)
        if self.trainer.clip is not None:
            self._rows.mul_(norms.reciprocal().mul_(self.trainer.clip).clamp_max_(1.0))
        self.recipe.step(self.optimizer, self.recipe.lr_at(self.step, self.steps))
        self._gradient.zero_()
        decay = min(self.trainer.ema, (1 + self.step) / (10 + self.step))
        self.average_vector.lerp_(self._weights, 1 - decay)
        if self.gradient.runs_layers:
            if self.step == 0:
                self._check_state()
            for model, average in zip(self.models, self.averages, strict=True):
                follow(model.network, average.network, decay)
        self.step += 1

    def _key(self, part: int) -> tuple[int, str, int, int, int]:
        """Returns the key of the random numbers inside the network, in a part of the next step."""
        return self.stream.points[0].seed, "layers", self.stream.variant, self.step, part

    def state(self, replica: int) -> dict[str, Any]:
        """The optimiser's state, as it would be if a replica were alone."""
        return self._mapped(lambda value: value.view(self._rows.shape)[replica].clone(), self.optimizer.state_dict())

    def history(self, replica: int) -> dict[str, Tensor]:
        """What a replica's steps since the last scalars have cost."""
        return self._history.state(replica)

    def restore(
        self,
        states: Sequence[dict[str, Any]],
        histories: Sequence[dict[str, Tensor]],
        step: int,
        seconds: float,
        variant: int,
    ) -> None:
        """Go on from a step, whose weights are in place.

        Args:
            states: of the optimiser, of each replica.
            histories: as :meth:`history` gave them.
            step: steps taken.
            seconds: they took.
            variant: of the stream.

        Raises:
            UserError: the states are not of this optimiser and these networks.
        """
        # The kernel behind the optimiser believes what it is given: a moment that is too short would be written past.
        like = nn.Parameter(torch.zeros_like(self.vector))
        like.grad, fresh = torch.zeros_like(self.vector), self.recipe.build(like)
        self.recipe.step(fresh, 0.0)
        try:
            self.optimizer.load_state_dict(self._mapped(lambda *values: torch.cat(values), *states))
            fits = self.optimizer.state.keys() <= {self.vector}
            fits &= _layout(self.optimizer.state[self.vector]) in ({}, _layout(fresh.state[like]))
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            fits = False
        if not fits:
            raise UserError("the checkpoint's state of the optimiser does not fit the optimiser and the network")
        device = self.vector.device
        self._history.restore([{name: x.to(device) for name, x in own.items()} for own in histories], step)
        self._gradient.zero_()
        self.step, self.seconds, self.stream.variant = step, seconds, variant

    def _mapped(self, change: Callable[..., Tensor], *states: dict[str, Any]) -> dict[str, Any]:
        """A state of the optimiser, made of others: of its tensors with a number for each weight, by ``change``."""
        first, weights = states[0], {self._rows.numel(), self._rows.shape[1]} - {1}
        changed = {
            index: {
                name: change(*(state["state"][index][name] for state in states))
                if isinstance(value, Tensor) and value.numel() in weights
                else value
                for name, value in own.items()
            }
            for index, own in first["state"].items()
        }
        return {**first, "state": changed}

    def run(
        self,
        log: Callable[[int, list[dict[str, float]]], None],
        checkpoint: Callable[[], None],
        preview: Callable[[], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last step, calling back at the intervals of the trainer.

        What belongs to a step is told before the step is saved, so that a run that is killed and goes on from there
        has told all of it, and once.

        Args:
            log: told the step and the scalars of each replica.
            checkpoint: saves; called after the last step, too.
            preview: draws samples.
            interrupted: asked after every step whether to save and return early.

        Raises:
            Diverged: the loss, or a weight, is no longer a number. The last checkpoint is from before.
        """
        # Whoever calls keeps his own random numbers.
        with own_layers(self.vector.device, self.stream.points[0].seed, "layers"):
            self._run(log, checkpoint, preview, interrupted)

    def _run(
        self,
        log: Callable[[int, list[dict[str, float]]], None],
        checkpoint: Callable[[], None],
        preview: Callable[[], None],
        interrupted: Callable[[], bool],
    ) -> None:
        trainer, since = self.trainer, time.perf_counter()
        logged, reported = self.seconds, self.step
        for chunks in self.stream.steps(self.step, self.steps):
            if self.step == 1:
                self._check_layers(chunks[0])
            self.advance(chunks)
            stop = interrupted()
            if self._is_due(trainer.log_every):
                values = self._history.read()
                seconds = self.seconds + time.perf_counter() - since
                own = {
                    "train/learning_rate": self.recipe.lr_at(self.step - 1, self.steps),
                    "train/steps_per_second": (self.step - reported) / (seconds - logged),
                }
                log(self.step, [{**each, **own} for each in values])
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

    def _check_layers(self, batch: Batch) -> None:
        """Warn where a network of the user's own keeps state that no checkpoint would have."""
        (model, *_), (average, *_), gradient = self.models, self.averages, self.gradient
        if not isinstance(gradient, Autograd) or type(model.network).__module__.partition(".")[0] == PACKAGE:
            return

        def loss(model: nn.Module) -> Tensor:
            with torch.set_grad_enabled(gradient.objective.differentiates):
                return gradient.objective.loss(model.given(batch.y), batch.rows)  # type: ignore[operator]

        try:
            found = repeats(model, average, loss, lambda: own_layers(self.vector.device, *self._key(0)))
        except (RuntimeError, TypeError):
            # A network that keeps its last activations trains, and cannot be copied.
            return
        if not found:
            logger.warning(
                f"network: {type(model.network).__name__} gives another loss with the same weights and seed: it keeps "
                f"numbers outside of its state_dict, or draws them from a generator that is not torch's own, so that "
                f"neither its seed nor resume= fix its weights: register_buffer() what it keeps, and draw by torch"
            )

    def _check_state(self) -> None:
        """UserError where the network has replaced its weights, or changed what a checkpoint has of it."""
        network = self.models[0].network
        name, now = type(network).__name__, layout(network)
        if changed := [key for key in {**self._layout, **now} if self._layout.get(key) != now.get(key)]:
            raise UserError(
                f"network: {name} makes {changed[0]} while it runs, or changes its shape or type, so that no "
                f"checkpoint could be read: register it in __init__, in its full size and type"
            )
        if moved := replaced(network, self.vector.data):
            raise UserError(
                f"network: {name} replaces its parameter {moved} while it runs, and the new one is not trained: change "
                f"it in place, by copy_() under torch.no_grad()"
            )

    @property
    def saves(self) -> bool:
        """Whether this is a step whose checkpoint is asked for, and not that of an interruption."""
        return self.step == 0 or self._is_due(self.trainer.checkpoint_every)

    def _is_due(self, every: int) -> bool:
        """Whether something is to be done now that is done at intervals, 0 for never, and at the last step."""
        return every > 0 and (self.step % every == 0 or self.step == self.steps)

    def _check(self) -> None:
        """Diverged where a loss, a gradient or a weight is not finite."""
        self._check_state()
        self._history.check()
        for replica, weights in enumerate(self._weights.view_as(self._rows)):
            if not bool(weights.isfinite().all()):
                raise Diverged(
                    f"weights are infinite after step {self.step}, which its loss was not yet: try a lower "
                    f"optimizer.lr",
                    replica,
                )


def average_of(model: ScoreModel | ClassifierModel) -> ScoreModel | ClassifierModel:
    """The average of a model before its first step, in evaluation mode; UserError where it cannot be copied."""
    try:
        return duplicate(model.train()).eval()
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"network: {type(model.network).__name__} cannot be copied, as its average must be: {error}"
        ) from None


def _layout(state: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes and types of what an optimiser remembers, by name."""
    return {
        name: (value.shape, value.dtype, value.stride()) if isinstance(value, Tensor) else type(value)
        for name, value in state.items()
    }
