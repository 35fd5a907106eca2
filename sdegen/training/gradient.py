"""Weights of the models under training, and gradients of the losses.

:class:`Autograd` works with any model. :class:`sdegen.training.perceptron.Perceptron` is faster, and works only with
multilayer perceptrons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import flatten_parameters
from sdegen.models.likelihood import Likelihood
from sdegen.models.score import ScoreModel
from sdegen.sde.base import SDE
from sdegen.training.batches import Batch
from sdegen.training.objective import Objective, Prepared

Model = ScoreModel | Likelihood


class Gradient(ABC):
    """Weights of R models, and gradients of the losses.

    Usually R is 1. Several models with the same layers can be trained together, and do not influence each other.

    Args:
        models: R models. The parameters of the models become views of :attr:`vector`.
        objective: unweighted loss.

    Attributes:
        name: value of ``trainer.gradient`` that selects the class.
        runs_layers: True if the layers of the network run. Layers may draw random numbers and change buffers.
        vector: trainable parameters, P of each model, one model after the other.
        weights: view of :attr:`vector` as ``(R, P)``.
        sums: gradients of the weights, ``(R, P)``, to which :meth:`add` adds.
    """

    name: Literal["autograd", "written"]
    runs_layers: bool

    def __init__(self, models: Sequence[Model], objective: Objective) -> None:
        self.models, self.objective = models, objective
        self.vector = flatten_parameters(p for model in models for p in model.parameters())
        assert self.vector.grad is not None
        size = (len(models), self.vector.numel() // len(models))
        self.weights, self.sums = self.vector.data.view(size), self.vector.grad.view(size)

    @abstractmethod
    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor, y: Tensor) -> Prepared:
        """Returns the rows ``(R * M, *)`` of many steps, one model after the other: see :meth:`Objective.prepare`.

        The additional arguments are the ``weight`` of the loss and the condition ``y`` of each row.
        """

    @abstractmethod
    def add(self, batch: Batch, factor: Tensor | None = None) -> tuple[Tensor, ...]:
        """Adds the gradient of the mean weighted loss of a step. ``batch`` is the step or a chunk of the step.

        The gradient of each row is multiplied by ``factor`` ``(R, N)``; None for 1. The losses are not multiplied.

        Returns the arguments of :meth:`losses`, ``(R, N, *)``, detached. The losses are not needed at every step.
        """

    @abstractmethod
    def losses(self, *parts: Tensor) -> Tensor:
        """Returns the weighted losses ``(R, N)`` of rows, from the result of :meth:`add`."""


def weighted_losses(model: Model, objective: Objective, batch: Batch) -> Tensor:
    """Returns the weighted losses ``(N,)`` of the rows of a batch with one seed."""
    own = batch.of(0)
    return own.weight * objective.loss(model.given(own.rows.conditions(own.y)), own.rows)


class Autograd(Gradient):
    """Gradient of a single model by autograd. With ``bfloat16``, the network runs under autocast."""

    name = "autograd"
    runs_layers = True

    def __init__(self, models: Sequence[Model], objective: Objective, bfloat16: bool = False) -> None:
        super().__init__(models, objective)
        self.bfloat16 = bfloat16

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor, y: Tensor) -> Prepared:
        return self.objective.prepared(sde, x0, t, randn_like, weight, y)

    def add(self, batch: Batch, factor: Tensor | None = None) -> tuple[Tensor, ...]:
        device = batch.weight.device.type
        with torch.autocast(device, torch.bfloat16) if self.bfloat16 else nullcontext():
            losses = weighted_losses(self.models[0], self.objective, batch)
        ((losses if factor is None else losses * factor[0]).sum() / batch.total).backward()
        return (losses.detach().unsqueeze(0),)

    def losses(self, *parts: Tensor) -> Tensor:
        return parts[0]
