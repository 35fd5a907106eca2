"""The training loop: linear, one step per batch."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sdegen.classifier import ClassifierModel
from sdegen.errors import UserError
from sdegen.gradient import Gradient
from sdegen.optimizer import Optimizer
from sdegen.score import ScoreModel
from sdegen.stream import Batch, Stream
from sdegen.tensor import flatten_parameters

BINS = 10
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


class Trainer:
    """How long, how large and where a training runs.

    Args:
        epochs: passes over the data, where ``steps`` is null.
        steps: number of steps; takes precedence over ``epochs``.
        batch_size: data points in a step; the last batch of an epoch is short.
        clip: largest norm of the gradient; null for no clipping.
        ema: decay of the moving average of the weights, in [0, 1); it starts lower, so that early steps fade.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        preview_every: steps between preview samples in TensorBoard; 0 for none.
        log_every: steps between scalars in TensorBoard.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        precision: ``float32``, ``float64``, or ``bfloat16``, which runs the network under autocast.
        threads: CPU threads of torch, fewer where OMP_NUM_THREADS allows fewer. A tiny network is several times slower
            with two than with one.
        gradient: ``autograd``; ``written``, out by hand for a multilayer perceptron under denoising score matching, and
            two to three times as fast; ``auto``, where there is one the latter. They differ by rounding.
    """

    def __init__(
        self,
        epochs: int | None = 1000,
        steps: int | None = None,
        batch_size: int = 64,
        clip: float | None = 1.0,
        ema: float = 0.999,
        checkpoint_every: int = 10000,
        preview_every: int = 10000,
        log_every: int = 200,
        device: str = "auto",
        precision: Literal["float32", "float64", "bfloat16"] = "float32",
        threads: int = 1,
        gradient: Literal["auto", "autograd", "written"] = "auto",
    ) -> None:
        if epochs is None and steps is None:
            raise ValueError("steps and epochs are both null: give one of them")
        for name, value, least in (
            ("epochs", epochs, 1),
            ("steps", steps, 1),
            ("batch_size", batch_size, 1),
            ("checkpoint_every", checkpoint_every, 1),
            ("preview_every", preview_every, 0),
            ("log_every", log_every, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        if not 1 <= threads <= 1024:
            raise ValueError(f"threads={threads} must lie between 1 and 1024")
        if clip is not None and clip <= 0:
            raise ValueError(f"clip={clip:g} must be above 0, or null for no clipping")
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema:g} must be at least 0 and below 1")
        self.epochs, self.steps, self.batch_size, self.clip, self.ema = epochs, steps, batch_size, clip, ema
        self.checkpoint_every, self.preview_every, self.log_every = checkpoint_every, preview_every, log_every
        self.device, self.precision = find_device(device), precision
        self.gradient = gradient
        self.threads = min(threads, threads_allowed() or threads)

    @property
    def sampling_precision(self) -> Literal["float32", "float64"]:
        """The precision in which the trained network samples: that of its weights."""
        return "float64" if self.precision == "float64" else "float32"

    def total(self, points: int) -> int:
        """The number of steps over a data set of ``points`` points."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * -(-points // self.batch_size)


def find_device(name: str) -> torch.device:
    """The device that a name stands for; ValueError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name} is not a device: try auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda") or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ValueError(f"device={name} is not on this machine: try device=auto")
    return device


def threads_allowed() -> int | None:
    """How many threads the environment allows to each process, as a launcher of several jobs at once sets it."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else None


class Training:
    """A network under training: its weights and their average as one vector each, and the step that changes them.

    Args:
        model: the score model or classifier; trained in place, on its device.
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
        model: ScoreModel | ClassifierModel,
        gradient: Gradient,
        optimizer: Optimizer,
        trainer: Trainer,
        stream: Stream,
        steps: int,
    ) -> None:
        self.model, self.average = model, copy.deepcopy(model)
        self.gradient, self.recipe, self.trainer, self.stream = gradient, optimizer, trainer, stream
        self.vector = flatten_parameters(self.model.parameters())
        self.average_vector = flatten_parameters(self.average.parameters()).requires_grad_(False)
        self.optimizer = optimizer.build(self.vector)
        self.steps, self.step, self.seconds = steps, 0, 0.0
        self.loss_by_t = LossByTime(model.sde.eps, model.sde.T)
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    def advance(self, chunks: list[Batch]) -> None:
        """One step of gradient descent."""
        parts = []
        for batch in chunks:
            losses = self.gradient.add(batch)
            self.loss_by_t.add(batch.rows.t, losses, batch.ratio)
            parts.append(losses.sum() / batch.total)
        step_loss = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
        gradient = self.vector.grad
        assert gradient is not None
        norm = torch.linalg.vector_norm(gradient)
        if self.trainer.clip is not None:
            gradient.mul_((self.trainer.clip / norm).clamp(max=1.0))
        self.recipe.step(self.optimizer, self.recipe.lr_at(self.step, self.steps))
        gradient.zero_()
        decay = min(self.trainer.ema, (1 + self.step) / (10 + self.step))
        self.average_vector.lerp_(self.vector.data, 1 - decay)
        self._losses.append(step_loss)
        self._norms.append(norm)
        self.step += 1

    def run(
        self,
        log: Callable[[int, dict[str, float]], None],
        checkpoint: Callable[[], None],
        preview: Callable[[], None],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last step, calling back at the intervals of the trainer.

        Args:
            log: told the step and its scalars.
            checkpoint: saves; called after the last step, too.
            preview: draws samples.
            interrupted: asked after every step whether to save and return early.

        Raises:
            UserError: the loss is no longer a number. The last checkpoint is from before.
        """
        trainer, since = self.trainer, time.perf_counter()
        logged = 0.0
        for chunks in self.stream.steps(self.step, self.steps):
            self.advance(chunks)
            stop = interrupted()
            last = self.step == self.steps
            if self.step % trainer.log_every == 0 or last:
                steps, values = len(self._losses), self._read()
                seconds = self.seconds + time.perf_counter() - since
                log(self.step, {**values, "train/steps_per_second": steps / (seconds - logged)})
                logged = seconds
            due = self.step % trainer.checkpoint_every == 0 or last or stop
            previewed = trainer.preview_every and (self.step % trainer.preview_every == 0 or last)
            if due or previewed:
                self.seconds += time.perf_counter() - since
                self._check()
                if due:
                    checkpoint()
                if previewed:
                    preview()
                since = time.perf_counter()
            if stop:
                return

    def _check(self) -> Tensor:
        """The losses since the last reading; one that is not finite, or its gradient, ends the training."""
        if not self._losses:
            return torch.zeros(0)
        losses, norms = torch.stack(self._losses), torch.stack(self._norms)
        bad = torch.nonzero(~(losses.isfinite() & norms.isfinite())).flatten().tolist()
        if bad:
            step = self.step - len(losses) + bad[0] + 1
            raise UserError(
                f"the loss is {float(losses[bad[0]])} at step {step}, and its gradient's norm {float(norms[bad[0]])}; "
                f"the last checkpoint is from before. Try a lower optimizer.lr, or a smaller trainer.clip"
            )
        return losses

    def _read(self) -> dict[str, float]:
        """The scalars since the last reading."""
        losses = self._check()
        values = {
            "train/loss": float(losses.mean()),
            "train/gradient_norm": float(torch.stack(self._norms).mean()),
            "train/learning_rate": self.recipe.lr_at(self.step - 1, self.steps),
            **self.loss_by_t.read(),
        }
        self._losses.clear()
        self._norms.clear()
        return values


class LossByTime:
    """The mean weighted loss in equal bins of t, gathered without a synchronisation and rarely added up.

    A mean over t, however t was drawn: the sum of ratio · λ · loss over the sum of the ratios.

    Args:
        eps: the smallest time.
        T: the largest.
    """

    KEPT = 2**18

    def __init__(self, eps: float, T: float) -> None:
        self.eps, self.T = eps, T
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held = 0
        self._sums: Tensor | None = None

    def add(self, t: Tensor, losses: Tensor, ratio: Tensor) -> None:
        """Rows of a step, ``(N,)`` each: times, weighted losses, and the uniform density over that of the times."""
        self._rows.append((t, losses, ratio))
        self._held += len(t)
        if self._held > self.KEPT:
            self._flush()

    def read(self) -> dict[str, float]:
        """The means since the last reading, of the bins that were met."""
        self._flush()
        assert self._sums is not None
        edges = torch.linspace(self.eps, self.T, BINS + 1).tolist()
        sums, counts = self._sums.tolist()
        self._sums = None
        return {
            f"loss_by_t/{low:.1f}-{high:.1f}": total / count
            for low, high, total, count in zip(edges, edges[1:], sums, counts, strict=False)
            if count
        }

    def _flush(self) -> None:
        if not self._rows:
            return
        t, losses, ratio = (torch.cat(column) for column in zip(*self._rows, strict=True))
        bins = ((t - self.eps) * (BINS / (self.T - self.eps))).long().clamp(0, BINS - 1)
        sums = torch.stack([torch.bincount(bins, weight.double(), BINS) for weight in (losses, ratio)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows.clear()
        self._held = 0
