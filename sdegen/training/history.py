"""Records of a training's steps: losses, norms of gradients, and losses by time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.training.batches import Batch


class Diverged(UserError):
    """Failure of a training whose numbers are no longer finite.

    Args:
        message: failure and its likely cause.
        replica: index of the model among the models that are trained together.
    """

    def __init__(self, message: str, replica: int) -> None:
        super().__init__(message)
        self.replica = replica


BINS = 10
"""Number of bins of the losses by time."""


class History:
    """Losses and norms of the steps since the last reading, of R models that are trained together.

    Losses are computed and added up only when they are read, or when more than :attr:`KEPT` numbers are held. A step
    then neither waits for the device nor spends time on its losses.

    Args:
        losses: function that computes the losses of rows: see :meth:`sdegen.training.gradient.Gradient.losses`.
        by_t: losses by time of each model.
    """

    KEPT = 2**18

    def __init__(self, losses: Callable[..., Tensor], by_t: Sequence[LossByTime]) -> None:
        self._losses, self._by_t = losses, by_t
        self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._held = 0
        self._cause = "the gradient alone overflows: try trainer.precision=float64, or a lower optimizer.lr"
        # The step and the mean loss of each chunk, and the norm of each step.
        self._steps: list[int] = []
        self._means: list[Tensor] = []
        self._norms: list[Tensor] = []

    def add(self, step: int, batch: Batch, parts: tuple[Tensor, ...]) -> None:
        """Records a step, or a chunk of it, with the result of :meth:`Gradient.add`."""
        self._rows.append((batch.total, batch.rows.t, batch.ratio, *parts))
        self._steps.append(step)
        self._held += parts[-1].numel()
        if self._held > self.KEPT:
            self._flush()

    def add_norms(self, norms: Tensor) -> None:
        """Records the norms of a step's gradients, ``(R, 1)``."""
        self._norms.append(norms)

    def check(self) -> Tensor:
        """Returns the mean loss of each step, ``(K, R)``.

        Raises:
            Diverged: a loss, or the norm of its gradient, is not finite.
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
            found = f"the loss is {loss} at step {first + step + 1}, and its gradient's norm {norm}"
            raise Diverged(f"{found}; {self._cause}", replica)
        return losses

    def state(self, replica: int) -> dict[str, Tensor]:
        """Returns the records of a model for a checkpoint; with them, a resumed run logs the same scalars."""
        losses = self.check()
        norms = torch.cat(self._norms, dim=1)[replica] if self._norms else losses[:, replica]
        own = {"losses": losses[:, replica], "norms": norms, "by_t": self._by_t[replica].sums}
        return {name: value.cpu().clone() for name, value in own.items()}

    def restore(self, states: Sequence[Mapping[str, Tensor]], step: int) -> None:
        """Continues from a step, with the states of all models on the device of the training."""
        self._clear()
        for by_t, state in zip(self._by_t, states, strict=True):
            by_t.sums = state["by_t"]
        losses, norms = (torch.stack([state[name] for state in states]) for name in ("losses", "norms"))
        if losses.numel():
            self._means, self._steps = [losses.T], list(range(step - losses.shape[1], step))
            self._norms.append(norms)

    def read(self) -> list[dict[str, float]]:
        """Returns the scalars of each model since the last reading."""
        losses, norms = self.check().mean(0).tolist(), torch.cat(self._norms, dim=1).mean(1).tolist()
        self._clear()
        return [
            {"train/loss": loss, "train/gradient_norm": norm, **by_t.read()}
            for loss, norm, by_t in zip(losses, norms, self._by_t, strict=True)
        ]

    def _flush(self) -> None:
        """Computes and adds up the losses of the rows that are held."""
        if not self._rows:
            return
        totals, *columns = zip(*self._rows, strict=True)
        lengths = [t.shape[1] for t in columns[0]]
        t, ratio, *parts = (torch.cat(column, dim=1) for column in columns)
        losses = self._losses(*parts)
        for by_t, *own in zip(self._by_t, t, losses, ratio, strict=True):
            by_t.add(*own)
        if not bool(losses.isfinite().all()):
            self._cause = cause(t, losses, lengths)
        sums = torch.segment_reduce(losses.T.contiguous(), "sum", lengths=torch.tensor(lengths, device=losses.device))
        self._means.append(sums / torch.tensor(totals, device=losses.device).unsqueeze(1))
        self._rows, self._held = [], 0


def cause(t: Tensor, losses: Tensor, lengths: Sequence[int]) -> str:
    """Returns the likely cause of infinite losses ``(R, N)`` at times ``t``, from the first chunk that has any.

    The ``lengths`` of the chunks add up to N.
    """
    chunks = zip(t.split(lengths, dim=1), losses.split(lengths, dim=1), strict=True)
    broken, times = next((~own.isfinite(), t) for t, own in chunks if not bool(own.isfinite().all()))
    share, times = float(broken.double().mean()), times[broken]
    where = f"for {share:.0%} of the points, at t from {float(times.min()):.3g} to {float(times.max()):.3g}"
    fix = (
        "a lower optimizer.lr, or a smaller trainer.clip" if share > 0.5 else "a larger sde.eps, or weighting=variance"
    )
    return f"it is not finite {where}: try {fix}"


class LossByTime:
    """Mean weighted loss in equal bins of t, where t is uniform whatever the distribution of the times.

    It is the sum of ratio · λ · loss over the sum of the ratios.

    Args:
        eps: smallest time.
        T: largest time.

    Attributes:
        sums: sums of the losses and of the ratios since the last reading, ``(2, BINS)`` float64.
    """

    def __init__(self, eps: float, T: float) -> None:
        self.eps, self.T = eps, T
        self.sums = torch.zeros(2, BINS, dtype=torch.float64)

    def add(self, t: Tensor, losses: Tensor, ratio: Tensor) -> None:
        """Adds rows ``(N,)``: times, weighted losses, and the uniform density over the density of the times."""
        bins = ((t - self.eps) * (BINS / (self.T - self.eps))).long().clamp(0, BINS - 1)
        sums = torch.stack([torch.bincount(bins, weight.double(), BINS) for weight in (losses, ratio)])
        self.sums = self.sums.to(sums.device) + sums

    def read(self) -> dict[str, float]:
        """Returns the means since the last reading, for the bins that have rows."""
        edges = torch.linspace(self.eps, self.T, BINS + 1).tolist()
        sums, counts = self.sums.tolist()
        self.sums = torch.zeros_like(self.sums)
        return {
            f"loss_by_t/{low:.1f}-{high:.1f}": total / count
            for low, high, total, count in zip(edges, edges[1:], sums, counts, strict=False)
            if count
        }
