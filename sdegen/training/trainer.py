"""Options of a training."""

from __future__ import annotations

import os
from typing import Literal

import torch

from sdegen.core import processes
from sdegen.core.checks import in_range
from sdegen.training.averages import APART, NARROWEST, WIDEST

STEPS = 12_000
"""Default number of steps. For points and the default network, they take half a minute on two cores."""
GRAIN = 4e6
"""Number of multiplications and additions in a step for which one more thread is used.

The value comes from ``scripts/benchmark.py scaling``.
"""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Type of the weights for each ``trainer.precision``."""
LEAST = {"epochs": 1, "steps": 1, "batch_size": 1, "checkpoint_every": 1, "keep": 1, "patience": 1, "log_every": 1}
LEAST |= {"retries": 0, "preview_every": 0}
"""Smallest allowed values of options."""


class Trainer:
    """Length, batch size and device of a training.

    Args:
        epochs: number of passes over the data; used only if ``steps`` is not a number.
        steps: number of steps. If null or ``auto``, ``epochs`` sets the number. If ``auto`` and ``epochs`` is null, it
            is 12000.
        batch_size: number of data points in a step; the last batch of an epoch may be smaller.
        clip: largest norm of the gradient; null for no clipping.
        ema: decay of the moving average of the weights, in [0, 1). It is lower in the first steps, so that early
            weights have little influence.
        widths: two relative widths of further averages of the weights, such as ``[0.05, 0.10]``, from which the average
            of any width can be had after the training: see the option ``ema`` of ``sdegen sample``. In an average
            of width 0.1, the last fifth of the steps has 83 % of the weight, however many steps there are. The run's
            folder then has about 32 snapshots of both averages, which need 64 times the disk space of the network; null
            for none.
        checkpoint_every: number of steps between checkpoints. A checkpoint is also saved before the first and after the
            last step.
        keep: number of newest checkpoints to keep, in addition to the best on held-out points; null for all. A
            checkpoint that only an interruption caused does not count, and is removed after the next checkpoint.
        patience: number of steps without an improvement of the held-out loss after which the training ends; null to
            train to the last step. An improvement is larger than the noise of the loss: see
            :mod:`sdegen.training.learning`.
        retries: largest number of returns to the last checkpoint, with other times and noises, after a loss, gradient
            or weight that is not finite.
        preview_every: number of steps between preview samples in TensorBoard; 0 for none.
        log_every: number of steps between scalars in TensorBoard.
        device: device of the training: ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda``, ``cuda:1``, …
        precision: number type: ``float32``, ``float64``, or ``bfloat16``, which runs the network under autocast.
        threads: number of CPU threads of torch, at most OMP_NUM_THREADS. With ``auto``, torch uses one thread for each
            4 million multiplications and additions of the network in a step, and at most one for each core. A tiny
            network is several times slower with two threads than with one.
        gradient: code for the gradient: ``autograd``, ``written`` or ``auto`` (``written`` if possible). The
            hand-written code is two to three times as fast, and works only for a multilayer perceptron with denoising
            score matching. The two results differ only by rounding.
        replicas: number of networks that are trained together, with the seeds ``seed``, ``seed + 1`` and so on. Each
            network has the same result as in a run by itself. They need the written gradient.
        shards: number of parts into which a step is divided, a power of two. The gradients of the parts are added in a
            fixed order, so that any number of processes that divides it, started by torchrun, has the same result bit
            for bit on the CPU. One process computes the parts one after the other, which needs less memory (gradient
            accumulation). If null, each process has one part, and the result depends on their number by rounding.
    """

    def __init__(
        self,
        epochs: int | None = None,
        steps: int | Literal["auto"] | None = "auto",
        batch_size: int = 256,
        clip: float | None = 1.0,
        ema: float = 0.999,
        widths: tuple[float, float] | None = None,
        checkpoint_every: int = 2000,
        keep: int | None = 5,
        patience: int | None = None,
        retries: int = 0,
        preview_every: int = 4000,
        log_every: int = 200,
        device: str = "auto",
        precision: Literal["float32", "float64", "bfloat16"] = "float32",
        threads: int | Literal["auto"] = "auto",
        gradient: Literal["auto", "autograd", "written"] = "auto",
        replicas: int = 1,
        shards: int | None = None,
    ) -> None:
        self.epochs, self.steps = epochs, steps_or_default(steps, epochs)
        self.batch_size, self.clip, self.ema, self.widths = batch_size, clip, ema, widths
        self.checkpoint_every, self.keep = checkpoint_every, keep
        self.patience, self.retries = patience, retries
        self.preview_every, self.log_every = preview_every, log_every
        self.precision, self.threads, self.gradient, self.replicas = precision, threads, gradient, replicas
        self.shards = shards
        self._check_ranges()
        self.device = find_device(device)

    def _check_ranges(self) -> None:
        if self.epochs is None and self.steps is None:
            raise ValueError("steps and epochs are both null: set one of them")
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None:
                in_range(name, value, at_least=least)
        in_range("replicas", self.replicas, at_least=1, at_most=1024)
        for name, off in (("retries", 0), ("patience", None)):
            if self.replicas > 1 and (value := getattr(self, name)) != off:
                raise ValueError(
                    f"{name}={value} works only with one network, and replicas={self.replicas}: set "
                    f"{name}={'null' if off is None else off} or replicas=1"
                )
        if self.shards is not None:
            in_range("shards", self.shards, at_least=1)
            if self.shards & (self.shards - 1):
                raise ValueError(f"shards={self.shards} must be a power of two: try {1 << self.shards.bit_length()}")
            if self.shards > self.batch_size:
                raise ValueError(f"shards={self.shards} exceeds batch_size={self.batch_size}: use fewer shards")
        if self.threads != "auto":
            in_range("threads", self.threads, at_least=1, at_most=1024)
        if self.clip is not None:
            in_range("clip", self.clip, above=0, fix=", or null for no clipping")
        in_range("ema", self.ema, at_least=0, below=1)
        if self.widths is not None:
            low, high = self.widths
            for width in self.widths:
                in_range("widths", width, at_least=NARROWEST, at_most=WIDEST, fix=": try widths=[0.05,0.10]")
            if high < APART * low:
                raise ValueError(
                    f"widths=[{low:g},{high:g}]: the second must be at least {APART} times the first: try "
                    f"widths=[0.05,0.10]"
                )

    @property
    def sampling_precision(self) -> Literal["float32", "float64"]:
        """Precision for sampling with the trained network: the precision of the weights."""
        return "float64" if self.precision == "float64" else "float32"

    def threads_for(self, work: float) -> int:
        """Returns the number of CPU threads for a step of ``work`` multiplications and additions."""
        local = processes.present().local
        # A launcher of several jobs sets OMP_NUM_THREADS. torchrun sets it to 1 on its own.
        limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip() if local == 1 else ""
        allowed = (int(limit) if limit.isdecimal() else 0) or 1024
        if self.threads != "auto":
            return min(self.threads, allowed)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Rounding depends on the threads, so each shard has the same number in one process as in several.
        share = max(local, self.shards or 1)
        return max(1, min(int(work / share / GRAIN), cores // share, allowed))

    def total(self, points: int) -> int:
        """Returns the number of steps for a data set of ``points`` points."""
        return self.steps or (self.epochs or 0) * -(-points // self.batch_size)


def steps_or_default(steps: int | Literal["auto"] | None, epochs: int | None) -> int | None:
    """Returns the number of steps that ``trainer.steps`` sets; None if ``epochs`` sets the number."""
    if steps == "auto":
        return STEPS if epochs is None else None
    return steps


def find_device(name: str) -> torch.device:
    """Returns the device with a name. Raises ValueError if this machine has no such device."""
    local, found = processes.present().local, torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if found else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name} is not a device: try auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name} is not supported: use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"device={name} is not on this machine: try device=auto")
    if device.type == "cuda" and local > 1 and device.index is not None:
        raise ValueError(f"device={name} would be used by {local} processes: device=cuda gives each its own")
    if device.type == "cuda" and local > found:
        raise ValueError(
            f"device={name}: {local} processes share {found} CUDA device{'s' * (found > 1)}: start {found}, or use "
            f"device=cpu"
        )
    return device
