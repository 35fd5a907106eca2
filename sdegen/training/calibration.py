r"""Measurements on a short training: the range of learning rates, and the noise of the gradient.

The *range test* raises the learning rate exponentially during a short training. The loss falls while the rate is useful
and rises when the steps become unstable. The loss is always computed on the same rows, with the same times and noises,
so that its changes are due to the weights alone.

The *gradient-noise scale* :math:`B = \operatorname{tr} \Sigma / |G|^2` compares the covariance :math:`\Sigma` of the
gradient of one row with the mean gradient G. A batch much smaller than B gives nearly independent information with each
row; a batch much larger than B repeats what a smaller one says.

References: Smith (2017), https://arxiv.org/abs/1506.01186; McCandlish et al. (2018), appendix A,
https://arxiv.org/abs/1812.06162
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import own_layers
from sdegen.training.batches import Batch, Stream
from sdegen.training.gradient import weighted_losses
from sdegen.training.loop import Training
from sdegen.training.optimizer import Optimizer

LOWEST, HIGHEST = 1e-5, 1.0
"""First and last learning rate of the range test."""
RISE, OFFSET = 0.25, 0.02
"""Rise of the loss that counts as unstable: the larger of these shares of its fall and of its minimum.

Most of a denoising loss is a constant, which no training removes, and the weights of single steps fluctuate.
"""
MARGIN = 16.0
"""Quotient of the rate at which the loss rises and the suggested rate."""
VARIANT = 10**6
"""Number of the stream from which the rows of the loss are taken; the steps of a training never use it."""


class Range(NamedTuple):
    """Losses after steps with rising learning rates.

    Attributes:
        rates: learning rates, ascending.
        losses: loss after each of ``rates``, finite except for the last one.
    """

    rates: list[float]
    losses: list[float]

    @property
    def limit(self) -> float | None:
        """Learning rate from which on the loss stays high; None if the loss never fell, or never stayed high."""
        first, least = self.losses[0], min(self.losses)
        if not math.isfinite(first):
            return None
        bound = least + max(RISE * (first - least), OFFSET * abs(least))
        last = max(i for i, loss in enumerate(self.losses) if loss <= bound)
        return self.rates[last + 1] if least < first and last + 1 < len(self.rates) else None

    @property
    def suggested(self) -> float | None:
        """Suggested learning rate, with one significant digit; None if the test found no limit."""
        return None if self.limit is None else float(f"{self.limit / MARGIN:.0e}")


def range_test(advance: Callable[[float], object], loss: Callable[[], float], steps: int, every: int = 1) -> Range:
    """Returns the losses of a training whose learning rate rises from :data:`LOWEST` to :data:`HIGHEST`.

    The test ends when the loss is not finite or far above its first value.

    Args:
        advance: function that takes one step with a learning rate.
        loss: function that returns the loss on rows that are always the same.
        steps: number of steps.
        every: number of steps between two computations of the loss.
    """
    rates, losses = [LOWEST], [loss()]
    for step in range(steps):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / max(steps - 1, 1))
        advance(rate)
        if (step + 1) % every == 0 or step == steps - 1:
            rates.append(rate)
            losses.append(loss())
            if not losses[-1] <= losses[0] + max(abs(losses[0]), losses[0] - min(losses)):
                break
    return Range(rates, losses)


class Rated(Optimizer):
    """Optimiser whose learning rate the range test sets.

    Args:
        recipe: optimiser of the training.

    Attributes:
        rate: learning rate of the next step.
    """

    def __init__(self, recipe: Optimizer) -> None:
        self.recipe, self.rate = recipe, LOWEST

    def build(self, vector: torch.nn.Parameter) -> torch.optim.Optimizer:
        return self.recipe.build(vector)

    def step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        self.recipe.step(optimizer, lr)

    def lr_at(self, step: int, steps: int) -> float:
        return self.rate


def range_of(training: Training, rated: Rated, steps: int, every: int, rows: int) -> Range:
    """Returns the range test of a training whose optimiser is ``rated``; its loss is on at least ``rows`` rows."""
    coming = training.stream.steps(0, steps)
    fixed = _fixed_rows(training, rows)

    def advance(rate: float) -> None:
        rated.rate = rate
        training.advance(next(coming))

    def loss() -> float:
        objective, model = training.gradient.objective, training.models[0]
        with torch.set_grad_enabled(objective.differentiates):
            losses = [weighted_losses(model, objective, batch).detach().double() for batch in fixed]
        return float(torch.cat(losses).mean())

    with own_layers(training.vector.device, training.stream.points[0].seed, "layers"):
        return range_test(advance, loss, steps, every)


def _fixed_rows(training: Training, rows: int) -> list[Batch]:
    """Returns batches of at least ``rows`` rows in total, in the form that :func:`weighted_losses` takes."""
    own, objective = training.stream, training.gradient.objective
    stream = Stream(own.points, objective.prepared, own.weighting, own.times, own.sde)
    stream.variant = VARIANT
    found: list[Batch] = []
    for batch in itertools.chain.from_iterable(stream.steps(0, rows)):
        found.append(batch)
        if sum(one.weight.shape[1] for one in found) >= rows:
            break
    return found


def noise_of(training: Training, start: int, batches: int) -> float:
    """Returns the gradient-noise scale of a training, in rows, from the gradients of ``batches`` steps after ``start``.

    The weights are not changed.
    """

    def gradients() -> Iterator[tuple[int, Tensor]]:
        for chunks in training.stream.steps(start, start + batches):
            training.gradient.sums.zero_()
            for batch in chunks:
                training.gradient.add(batch, training.factor(batch))
            yield chunks[0].total, training.gradient.sums[0].double()
        training.gradient.sums.zero_()

    return noise_scale(gradients())


def noise_scale(gradients: Iterable[tuple[int, Tensor]]) -> float:
    r"""Returns the gradient-noise scale :math:`\operatorname{tr} \Sigma / |G|^2` in rows; infinity if G is too small.

    ``gradients`` are the numbers of rows and the mean gradients ``(P,)`` of independent batches, at least two.
    """
    batches, rows, lengths, total = 0, 0, 0.0, torch.zeros(())
    # Keep sums only: the gradients of a large network would fill the memory.
    for size, gradient in gradients:
        batches, rows = batches + 1, rows + size
        lengths += size * float(gradient.square().sum())
        total = total.to(gradient) + size * gradient
    mean = float((total / rows).square().sum())
    # The weighted squared deviations from the mean have the expectation (K - 1) tr Sigma for K batches.
    trace = (lengths - rows * mean) / (batches - 1)
    signal = mean - trace / rows
    return trace / signal if signal > 0 else math.inf
