"""Records of the steps of a training: losses, norms of gradients, and losses by time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.training.batches import Batch


class Diverged(UserError):
    """Failure of a training: a loss, gradient or weight of the model ``replica`` is not finite."""

    def __init__(self, message: str, replica: int) -> None:
        super().__init__(message)
        self.replica = replica


BINS = 10
"""Number of bins of t for the loss by time."""


class History:
    """Losses and gradient norms of R models that are trained together, since the last :meth:`read`.

    Losses are computed and added up only when they are read, or when more than :attr:`KEPT` numbers are stored. A step
    then neither waits for the device nor spends time on its losses.

    The loss by time is the mean of λ · loss in equal bins of t, for uniform t in each bin. Let r be the uniform
    density divided by the density of the training times. The result is the sum of r · λ · loss divided by the sum of r,
    so that the distribution of the training times has no influence.

    Args:
        losses: function that computes the losses of rows: see :meth:`sdegen.training.gradient.Gradient.losses`.
        models: number R of models.
        eps: smallest time.
        T: largest time.
    """

    KEPT = 2**18

    def __init__(self, losses: Callable[..., Tensor], models: int, eps: float, T: float) -> None:
        self._losses, self._eps, self._T = losses, eps, T
        # These are, for each model and bin, the sums of r · λ · loss and of r.
        self._by_t = torch.zeros(models, 2, BINS, dtype=torch.float64)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._held = 0
        self._cause = "the gradient alone overflows: try trainer.precision=float64, or a lower optimizer.lr"
        # Keep the step and the mean loss of each chunk, and the gradient norm of each step.
        self._steps: list[int] = []
        self._means: list[Tensor] = []
        self._norms: list[Tensor] = []

    def add(self, step: int, batch: Batch, parts: tuple[Tensor, ...]) -> None:
        """Records a step, or a chunk of a step, with the result of :meth:`Gradient.add`."""
        self._rows.append((batch.total, batch.rows.t, batch.ratio, *parts))
        self._steps.append(step)
        self._held += parts[-1].numel()
        if self._held > self.KEPT:
            self._flush()

    def add_norms(self, norms: Tensor) -> None:
        """Records the norms of a step's gradients, ``(R, 1)``."""
        self._norms.append(norms)

    def forget(self) -> None:
        """Clears the records."""
        self._by_t = torch.zeros_like(self._by_t)
        self._clear()

    def check(self) -> Tensor:
        """Returns the mean loss of each step, ``(K, R)``.

        Raises:
            Diverged: a loss or the norm of a gradient is not finite.
        """
        self._flush()
        if not self._means:
            return torch.zeros(0, len(self._by_t))
        means, norms = torch.cat(self._means), torch.cat(self._norms, dim=1).T
        first = self._steps[0]
        steps = torch.tensor(self._steps, device=means.device) - first
        losses = torch.zeros_like(norms).index_add(0, steps, means)
        if bad := torch.nonzero(~(losses.isfinite() & norms.isfinite())).tolist():
            (step, replica), *_ = bad
            loss, norm = float(losses[step, replica]), float(norms[step, replica])
            found = f"the loss is {loss} at step {first + step + 1}, and the norm of its gradient is {norm}"
            raise Diverged(f"{found}; {self._cause}", replica)
        return losses

    def state(self, replica: int) -> dict[str, Tensor]:
        """Returns the records of a model for a checkpoint, so that a resumed run logs the same scalars."""
        losses = self.check()
        norms = torch.cat(self._norms, dim=1)[replica] if self._norms else losses[:, replica]
        own = {"losses": losses[:, replica], "norms": norms, "by_t": self._by_t[replica]}
        return {name: value.cpu().clone() for name, value in own.items()}

    def restore(self, states: Sequence[Mapping[str, Tensor]], step: int) -> None:
        """Restores the states of all models at a step. The states are on the device of the training."""
        self._clear()
        losses, norms, self._by_t = (torch.stack([s[name] for s in states]) for name in ("losses", "norms", "by_t"))
        if losses.numel():
            self._means, self._steps = [losses.T], list(range(step - losses.shape[1], step))
            self._norms.append(norms)

    def read(self) -> list[dict[str, float]]:
        """Returns the scalars of each model since the last call, and clears the records."""
        losses, norms = self.check().mean(0).tolist(), torch.cat(self._norms, dim=1).mean(1).tolist()
        edges = torch.linspace(self._eps, self._T, BINS + 1).tolist()
        names = [f"loss_by_t/{low:.1f}-{high:.1f}" for low, high in itertools.pairwise(edges)]
        found = []
        for loss, norm, (sums, ratios) in zip(losses, norms, self._by_t.tolist(), strict=True):
            by_t = {name: s / ratio for name, s, ratio in zip(names, sums, ratios, strict=True) if ratio}
            found.append({"train/loss": loss, "train/gradient_norm": norm, **by_t})
        self.forget()
        return found

    def _flush(self) -> None:
        """Computes and adds up the losses of the stored rows."""
        if not self._rows:
            return
        totals, *columns = zip(*self._rows, strict=True)
        lengths = [t.shape[1] for t in columns[0]]
        t, ratio, *parts = (torch.cat(column, dim=1) for column in columns)
        losses = self._losses(*parts)
        bins = ((t - self._eps) * (BINS / (self._T - self._eps))).long().clamp(0, BINS - 1)
        pairs = torch.stack([losses, ratio], dim=1).double()
        sums = [torch.bincount(own, row, BINS) for own, pair in zip(bins, pairs, strict=True) for row in pair]
        self._by_t = self._by_t.to(t.device) + torch.stack(sums).view_as(self._by_t)
        if not bool(losses.isfinite().all()):
            self._cause = cause(t, losses, lengths)
        by_chunk = torch.segment_reduce(
            losses.T.contiguous(), "sum", lengths=torch.tensor(lengths, device=losses.device)
        )
        self._means.append(by_chunk / torch.tensor(totals, device=losses.device).unsqueeze(1))
        self._rows, self._held = [], 0


def cause(t: Tensor, losses: Tensor, lengths: Sequence[int]) -> str:
    """Returns the likely cause of losses that are not finite, from the first chunk with such losses.

    The losses and the times ``t`` are ``(R, N)``. The ``lengths`` of the chunks add up to N.
    """
    chunks = zip(t.split(lengths, dim=1), losses.split(lengths, dim=1), strict=True)
    broken, times = next((~own.isfinite(), t) for t, own in chunks if not bool(own.isfinite().all()))
    share, times = float(broken.double().mean()), times[broken]
    where = f"for {share:.0%} of the points, at t from {float(times.min()):.3g} to {float(times.max()):.3g}"
    fix = (
        "a lower optimizer.lr, or a smaller trainer.clip" if share > 0.5 else "a larger sde.eps, or weighting=variance"
    )
    return f"the loss is not finite {where}: try {fix}"
