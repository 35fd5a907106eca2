r"""How the gradient of a training step is computed: by autograd, or, of a multilayer perceptron, written out.

A step of a tiny network is mostly what autograd and Python need to get at its few matrix products. For denoising score
matching and a parametrization that is affine in the network's output F,

.. math:: \sigma_t s_\theta(x_t, t) + z = c + g F, \qquad
          \text{loss} = \frac{\lambda}{\sigma_t^2} \|c + g F\|^2, \qquad
          \frac{\partial\, \text{loss}}{\partial F} = \frac{2 \lambda}{\sigma_t^2}\, g\, (c + g F),

where c, g and what the first layer sees depend on nothing that is learned, and are prepared for many steps at once.
Products and the chain rule are left. Autograd computes the same, and is what it is tested against.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core.errors import UserError
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.models.classifier import ClassifierModel
from sdegen.models.parametrizations import Affine
from sdegen.models.score import ScoreModel
from sdegen.networks.mlp import MLP
from sdegen.sde.base import SDE, LinearSDE
from sdegen.training.batches import Batch
from sdegen.training.objective import Denoising, Noised, Objective, Prepared


class Gradient(ABC):
    """Adds the gradient of a step's loss to that of the weights, which are views of one vector.

    Attributes:
        name: as ``trainer.gradient`` has it.
        runs_layers: whether the network's own layers run, which may draw random numbers and change their buffers.
        rowwise: whether a row has the same bits whatever rows :meth:`prepare` makes beside it; not so where it takes
            matrix products of them.
    """

    name: Literal["autograd", "written"]
    runs_layers: bool
    rowwise = True

    @abstractmethod
    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        """The rows of many steps: see :meth:`Objective.prepare`; of ``weight`` ``(N,)`` each."""

    @abstractmethod
    def bind(self, models: Sequence[ScoreModel | ClassifierModel], weights: Tensor, gradient: Tensor) -> None:
        """Told first which models are trained, and where their weights and gradients lie, of which theirs are views.

        Args:
            models: R of them, one alone but for those that are trained together.
            weights: ``(R, P)``, P parameters of each.
            gradient: of the same shape.
        """

    @abstractmethod
    def add(self, batch: Batch) -> tuple[Tensor, ...]:
        """Add the gradient of the mean of the weighted losses over the step's rows.

        Returns:
            What :meth:`losses` needs, detached: the losses are not needed at every step.
        """

    @abstractmethod
    def losses(self, *parts: Tensor) -> Tensor:
        """The weighted losses of rows, ``(N,)``, from what :meth:`add` gave of them."""


class Autograd(Gradient):
    """Of any model and objective.

    Args:
        model: whose weights are trained.
        objective: the unweighted loss.
        bfloat16: whether the network runs under autocast.
    """

    name = "autograd"
    runs_layers = True

    def __init__(self, model: ScoreModel | ClassifierModel, objective: Objective, bfloat16: bool = False) -> None:
        self.model, self.objective, self.bfloat16 = model, objective, bfloat16

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        return self.objective.prepare(sde, x0, t, randn_like)

    def bind(self, models: Sequence[ScoreModel | ClassifierModel], weights: Tensor, gradient: Tensor) -> None:
        """The one model has them already."""

    def add(self, batch: Batch) -> tuple[Tensor, ...]:
        with self._autocast(batch.weight.device.type):
            losses = self.objective.loss(self.model.given(batch.y), batch.rows)
        weighted = batch.weight * losses
        (weighted.sum() / batch.total).backward()
        return (weighted.detach(),)

    def losses(self, *parts: Tensor) -> Tensor:
        return parts[0]

    def _autocast(self, device: str) -> AbstractContextManager:
        return torch.autocast(device, torch.bfloat16) if self.bfloat16 else nullcontext()


@dataclass(frozen=True)
class Residuals(Prepared):
    """Features ``x`` ``(N, inputs)`` of a first layer, and what makes a loss of the output F ``(N, d)`` of the last.

    The weighted loss is ``scale`` ``(N,)`` times the squared norm of ``constant + gain * F``, both ``(N, d)``, and its
    gradient at F is ``pull`` ``(N, d)`` times that sum.
    """

    constant: Tensor
    gain: Tensor
    scale: Tensor
    pull: Tensor


class Layer(NamedTuple):
    """A linear layer, of R networks with an axis of R in front.

    Attributes:
        weight: ``(outputs, inputs)``.
        transposed: the same, ``(inputs, outputs)``.
        bias: ``(1, outputs)``.
        weight_gradient: a view of the vector's, like ``weight``.
        bias_gradient: like ``bias``.
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


class Products(NamedTuple):
    """Matrix products: A B, C + A B, and the latter in place."""

    product: Callable[[Tensor, Tensor], Tensor]
    onto: Callable[[Tensor, Tensor, Tensor], Tensor]
    onto_: Callable[..., Tensor]


ONE = Products(torch.mm, torch.addmm, Tensor.addmm_)
MANY = Products(torch.bmm, torch.baddbmm, Tensor.baddbmm_)

SKINNY = 16
"""Columns of an input below which the order of the product matters."""

Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: (torch.relu, lambda g, z, h: torch.ops.aten.threshold_backward(g, h, 0)),
    nn.SiLU: (nn.functional.silu, lambda g, z, h: torch.ops.aten.silu_backward(g, z)),
    nn.Tanh: (torch.tanh, lambda g, z, h: torch.ops.aten.tanh_backward(g, h)),
}
"""Activations h(z), and the gradient at z given that at h, z and h."""


class Perceptron(Gradient):
    """Of a multilayer perceptron under denoising score matching, without autograd; or of several at once.

    Args:
        model: a multilayer perceptron, read by an affine parametrization.
        objective: denoising score matching.

    Raises:
        ValueError: the model or the objective is another.
    """

    name = "written"
    runs_layers = False

    def __init__(self, model: ScoreModel | ClassifierModel, objective: Objective) -> None:
        if type(objective) is not Denoising:
            raise ValueError("it is written out for objective=denoising alone")
        if type(model.network) is not MLP or not isinstance(model, ScoreModel):
            raise ValueError("it is written out for network=mlp alone")
        # A subclass of the user's may compute more than its terms, which would be left out.
        own = type(model.parametrization)
        if not issubclass(own, Affine) or own.__call__ is not Affine.__call__:
            raise ValueError("it is written out for parametrizations that are affine in the network's output")
        self.model, self.network, self.objective = model, model.network, objective
        self.rowwise = not model.parametrization.rotates  # type: ignore[attr-defined]
        self.activate, self.derive = ACTIVATIONS[type(model.network.layers[1])]

    def bind(self, models: Sequence[ScoreModel | ClassifierModel], weights: Tensor, gradient: Tensor) -> None:
        self.models, alone = models, len(models) == 1
        self.products, self.layers, start = (ONE if alone else MANY), [], 0
        # Ones that add up the rows of a batch, by its shape: a product is twice as fast as a sum.
        self.row = functools.cache(lambda shape: weights.new_ones(*shape[:-1], 1, shape[-1]))

        def of(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
            view = rows[:, start : start + math.prod(shape)].unflatten(1, shape)
            return view[0] if alone else view

        for layer in (layer for layer in self.network.layers if isinstance(layer, nn.Linear)):
            pairs = []
            for shape in (tuple(layer.weight.shape), (1, layer.out_features)):
                pairs.append([of(rows, shape) for rows in (weights, gradient)])
                start += math.prod(shape)
            (weight, weight_gradient), (bias, bias_gradient) = pairs
            self.layers.append(Layer(weight, weight.mT, bias, weight_gradient, bias_gradient))

    def prepare(  # type: ignore[override]
        self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor
    ) -> Residuals:
        rows = self.objective.prepare(sde, x0, t, randn_like)
        parts = zip(self.models, *(part.chunk(len(self.models)) for part in vars(rows).values()), strict=True)
        # Moments of the data and random features of the time are each network's own.
        own = [self._affine(model, sde, type(rows)(*fields)) for model, *fields in parts]
        features, constant, gain = (torch.cat(part) for part in zip(*own, strict=True))
        scale = weight / rows.sigma**2
        pull = 2 * gain * scale.unsqueeze(1)
        return Residuals(features, rows.t, constant, gain, scale, pull)

    @staticmethod
    def _affine(model: ScoreModel, sde: LinearSDE, rows: Noised) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the features of a model's first layer, and :math:`c` and :math:`g` of the losses, ``(N, d)`` each."""
        parametrization: Affine = model.parametrization  # type: ignore[assignment]
        terms, sigma = parametrization.terms(sde, rows.x, rows.t), expand(rows.sigma, rows.x)
        constant = parametrization.along(rows.noise) + sigma * terms.constant
        gain = (sigma * terms.gain).expand_as(constant)
        network: MLP = model.network  # type: ignore[assignment]
        return network.features(terms.x, terms.t), constant.flatten(1), gain.flatten(1)

    def add(self, batch: Batch) -> tuple[Tensor, ...]:
        rows, share = batch.rows, 1 / batch.total
        assert isinstance(rows, Residuals)
        product, onto, _ = self.products
        *hidden, last = self.layers
        h, passed = rows.x, []
        for layer in hidden:
            z = onto(layer.bias, h, layer.transposed)
            passed.append((h, z))
            h = self.activate(z)
        residual = torch.addcmul(rows.constant, rows.gain, onto(last.bias, h, last.transposed))
        g = residual * rows.pull
        self._add(last, h, g, share)
        for layer, after, (x, z) in zip(reversed(hidden), self.layers[:0:-1], reversed(passed), strict=True):
            g = self.derive(product(g, after.weight), z, h)
            self._add(layer, x, g, share)
            h = x
        return rows.scale, residual

    def losses(self, *parts: Tensor) -> Tensor:
        scale, residual = parts
        return scale * residual.square().sum(-1)

    def _add(self, layer: Layer, x: Tensor, g: Tensor, share: float) -> None:
        """Add what an input ``(N, inputs)`` and the gradient at the output ``(N, outputs)`` make of a layer's weights'.

        Args:
            layer: the layer.
            x: the input.
            g: the gradient at the output, of the sum of the losses.
            share: of that sum in the loss.
        """
        product, _, onto_ = self.products
        onto_(layer.bias_gradient, self.row(x.shape[:-1]), g, alpha=share)
        if x.shape[-1] < SKINNY:
            # Twice as fast as the product in the other order, where one factor is a few columns wide.
            layer.weight_gradient.add_(product(x.mT, g).mT, alpha=share)
        else:
            onto_(layer.weight_gradient, g.mT, x, alpha=share)


ONE_BY_ONE = "train them one by one, by -m seed=0,1,2"


def choose(
    asked: Literal["auto", "autograd", "written"],
    model: ScoreModel | ClassifierModel,
    objective: Objective,
    bfloat16: bool,
    replicas: int,
) -> Gradient:
    """The gradient that is asked for; ``auto`` is the one that is written out where there is one.

    Raises:
        UserError: it is not written out for these.
    """
    together = f"trainer.replicas={replicas}: the written gradient alone trains networks together"
    if asked == "autograd":
        if replicas > 1:
            raise UserError(f"{together}: use trainer.gradient=auto")
        return Autograd(model, objective, bfloat16)
    try:
        if bfloat16:
            raise ValueError("it has the precision of the weights")
        return Perceptron(model, objective)
    except ValueError as error:
        if replicas > 1:
            raise UserError(f"{together}, and {error}: {ONE_BY_ONE}") from None
        if asked == "written":
            raise UserError(f"trainer.gradient=written: {error}: use trainer.gradient=auto") from None
    return Autograd(model, objective, bfloat16)
