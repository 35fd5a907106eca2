"""The weights of the models under training, and the gradients of their losses.

:class:`Autograd` works with any model, :class:`sdegen.training.perceptron.Perceptron` with multilayer perceptrons.
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
from sdegen.models.classifier import ClassifierModel
from sdegen.models.score import ScoreModel
from sdegen.sde.base import SDE
from sdegen.training.batches import Batch
from sdegen.training.objective import Objective, Prepared

Model = ScoreModel | ClassifierModel


class Gradient(ABC):
    """The weights of R models, and the gradients of their losses.

    Usually one model is trained. Several models of the same shape are trained together, each as if it were alone.

    Args:
        models: R models; their parameters become views of :attr:`vector`.
        objective: unweighted loss.

    Attributes:
        name: value of ``trainer.gradient`` that selects the class.
        runs_layers: True if the network's own layers run, which may draw random numbers and change their buffers.
        vector: the P trainable parameters of each model, one model after the other.
        weights: the same numbers as ``(R, P)``.
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
    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        """Returns the rows of many steps, ``(R M, *)``, one model after the other: see :meth:`Objective.prepare`.

        The additional argument is the ``weight`` of each loss, ``(R M,)``.
        """

    @abstractmethod
    def add(self, batch: Batch) -> tuple[Tensor, ...]:
        """Adds the gradient of the mean weighted loss over the rows of a step; the batch is the step or a chunk of it.

        Returns the input of :meth:`losses`, ``(R, N, *)``, detached: the losses are not needed at every step.
        """

    @abstractmethod
    def losses(self, *parts: Tensor) -> Tensor:
        """Returns the weighted losses of rows, ``(R, N)``, from the result of :meth:`add`."""


def weighted_losses(model: Model, objective: Objective, batch: Batch) -> Tensor:
    """Returns the weighted losses of the rows of a batch of one seed, ``(N,)``."""
    own = batch.of(0)
    return own.weight * objective.loss(model.given(own.y), own.rows)


class Autograd(Gradient):
    """Gradient of a single model of any kind under any objective; ``bfloat16`` runs the network under autocast."""

    name = "autograd"
    runs_layers = True

    def __init__(self, models: Sequence[Model], objective: Objective, bfloat16: bool = False) -> None:
        super().__init__(models, objective)
        self.bfloat16 = bfloat16

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        return self.objective.prepare(sde, x0, t, randn_like)

    def add(self, batch: Batch) -> tuple[Tensor, ...]:
        device = batch.weight.device.type
        with torch.autocast(device, torch.bfloat16) if self.bfloat16 else nullcontext():
            losses = weighted_losses(self.models[0], self.objective, batch)
        (losses.sum() / batch.total).backward()
        return (losses.detach().unsqueeze(0),)

    def losses(self, *parts: Tensor) -> Tensor:
        return parts[0]
