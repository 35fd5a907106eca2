r"""The gradient of a multilayer perceptron under denoising score matching, written out by hand.

A step of a tiny network is a few matrix products. Most of the time is the overhead of autograd and Python. For
denoising score matching and a parametrization that is affine in the network's output F,

.. math:: \sigma_t s_\theta(x_t, t) + z = c + g F, \qquad
          \text{loss} = \frac{\lambda}{\sigma_t^2} \|c + g F\|^2, \qquad
          \frac{\partial\, \text{loss}}{\partial F} = \frac{2 \lambda}{\sigma_t^2}\, g\, (c + g F),

where c, g and the input of the first layer do not depend on the weights, and are prepared for many steps at once. A
step then needs only matrix products and the chain rule. The tests compare the result with autograd.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.models.parametrizations import Affine
from sdegen.models.score import ScoreModel
from sdegen.networks.mlp import MLP
from sdegen.sde.base import SDE
from sdegen.training.batches import Batch
from sdegen.training.gradient import Autograd, Gradient, Model
from sdegen.training.objective import Denoising, Noised, Objective, Prepared


@dataclass(frozen=True)
class Residuals(Prepared):
    """Inputs ``x`` ``(N, inputs)`` of the first layer, and the coefficients of the loss in the output F ``(N, d)``.

    The weighted loss is ``scale`` ``(N,)`` times the squared norm of ``constant + gain * F``. The gradient of the loss
    in F is ``pull * (constant + gain * F)``. ``constant``, ``gain`` and ``pull`` are ``(N, d)``.
    """

    constant: Tensor
    gain: Tensor
    scale: Tensor
    pull: Tensor


class Layer(NamedTuple):
    """Linear layer of R networks.

    The weights are ``(R, outputs, inputs)``, and the bias is ``(R, 1, outputs)``. If R is 1, the axis of length R is
    left out. The gradients have the same shapes. ``transposed`` is a transposed view of the weights.
    """

    weight: Tensor
    transposed: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor


Products = tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]
ONE: Products = torch.mm, torch.addmm, Tensor.addmm_
MANY: Products = torch.bmm, torch.baddbmm, Tensor.baddbmm_
"""Matrix products for one network and for many networks: A B, C + A B, and C + A B in place."""

MOST_FEATURES = 129
"""Largest number of features of a condition. The rows of many steps are in memory at once, with their features."""
SKINNY = 16
"""Number of inputs of a layer below which the gradient of the weights is computed as its transpose."""

Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]
ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: (torch.relu, lambda g, z, h: torch.ops.aten.threshold_backward(g, h, 0)),
    nn.SiLU: (nn.functional.silu, lambda g, z, h: torch.ops.aten.silu_backward(g, z)),
    nn.Tanh: (torch.tanh, lambda g, z, h: torch.ops.aten.tanh_backward(g, h)),
}
"""Activation functions h(z), each with the gradient in z as a function of the gradient in h, of z and of h."""


def obstacle(model: Model, objective: Objective, bfloat16: bool) -> str:
    """Returns a requirement of :class:`Perceptron` that a training does not meet; empty if all are met."""
    if bfloat16:
        return "a trainer.precision other than bfloat16"
    if type(objective) is not Denoising:
        return "objective=denoising"
    if type(model.network) is not MLP or not isinstance(model, ScoreModel):
        return "network=mlp"
    # A subclass by a user may compute more than the terms.
    own = type(model.parametrization)
    if not issubclass(own, Affine) or own.__call__ is not Affine.__call__:
        return "a parametrization that is affine in the network's output"
    condition = model.network.condition
    if condition is not None and condition.inputs > MOST_FEATURES:
        most = MOST_FEATURES - 1
        if not condition.valued:
            return f"at most {most} classes, or network.label_dropout=null"
        return f"a condition of at most {most} numbers{' and classes' if condition.labelled else ''}"
    return ""


class Perceptron(Gradient):
    """Gradient of multilayer perceptrons under denoising score matching, without autograd.

    Args:
        models: models for which :func:`obstacle` returns an empty text.
        objective: denoising score matching.
    """

    name = "written"
    runs_layers = False

    def __init__(self, models: Sequence[Model], objective: Objective) -> None:
        super().__init__(models, objective)
        self.products = ONE if len(models) == 1 else MANY
        network: MLP = models[0].network  # type: ignore[assignment]
        self.activate, self.derive = ACTIVATIONS[type(network.layers[1])]
        # A product with ones adds up the rows of a batch twice as fast as a sum.
        self.ones = functools.cache(lambda shape: self.weights.new_ones(*shape[:-1], 1, shape[-1]))
        self.layers, start = [], 0
        for layer in (layer for layer in network.layers if isinstance(layer, nn.Linear)):
            views = []
            for shape in (tuple(layer.weight.shape), (1, layer.out_features)):
                own = slice(start, start + math.prod(shape))
                views.append([all_[:, own].unflatten(1, shape).squeeze(0) for all_ in (self.weights, self.sums)])
                start = own.stop
            (weight, weight_gradient), (bias, bias_gradient) = views
            self.layers.append(Layer(weight, weight.mT, bias, weight_gradient, bias_gradient))

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor, y: Tensor) -> Residuals:
        rows: Noised = self.objective.prepare(sde, x0, t, randn_like)
        parts = zip(self.models, *(part.chunk(len(self.models)) for part in (y, *vars(rows).values())), strict=True)
        # The models have different moments of the data and different random features of the time.
        own = [self._affine(model, sde, Noised(*fields), y) for model, y, *fields in parts]
        features, constant, gain = (torch.cat(part) for part in zip(*own, strict=True))
        scale = weight / rows.sigma**2
        pull = 2 * gain * scale.unsqueeze(1)
        return Residuals(features, rows.t, constant, gain, scale, pull)

    @staticmethod
    def _affine(model: Model, sde: SDE, rows: Noised, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the inputs of a model's first layer, and the coefficients c and g of the loss, ``(N, d)`` each."""
        assert isinstance(model, ScoreModel)
        parametrization: Affine = model.parametrization_given(y)  # type: ignore[assignment]
        terms, sigma = parametrization.terms(sde, rows.x, rows.t), expand(rows.sigma, rows.x)
        constant = parametrization.along(rows.noise) + sigma * terms.constant
        gain = (sigma * terms.gain).expand_as(constant)
        network: MLP = model.network  # type: ignore[assignment]
        return network.features(terms.x, terms.t, y), constant.flatten(1), gain.flatten(1)

    def add(self, batch: Batch, factor: Tensor | None = None) -> tuple[Tensor, ...]:
        rows, share = batch.rows, 1 / batch.total
        assert isinstance(rows, Residuals)
        product, onto, _ = self.products
        *hidden, last = self.layers
        # A single network computes without the axis of length R, which makes the products faster.
        h, passed = rows.x.squeeze(0), []
        for layer in hidden:
            z = onto(layer.bias, h, layer.transposed)
            passed.append((h, z))
            h = self.activate(z)
        output = onto(last.bias, h, last.transposed)
        residual = torch.addcmul(rows.constant, rows.gain, output)
        g = residual * (rows.pull if factor is None else rows.pull * factor.unsqueeze(-1))
        g = g.squeeze(0)
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
        """Adds ``share`` times the gradients of a layer with the inputs ``x`` and the gradient ``g`` at the outputs."""
        product, _, onto_ = self.products
        onto_(layer.bias_gradient, self.ones(x.shape[:-1]), g, alpha=share)
        if x.shape[-1] < SKINNY:
            # For few columns, this is twice as fast as the product in the other order.
            layer.weight_gradient.add_(product(x.mT, g).mT, alpha=share)
        else:
            onto_(layer.weight_gradient, g.mT, x, alpha=share)


def gradient_of(
    asked: Literal["auto", "autograd", "written"], models: Sequence[Model], objective: Objective, bfloat16: bool
) -> Gradient:
    """Returns the gradient that ``trainer.gradient`` selects; ``auto`` selects :class:`Perceptron` if possible."""
    if asked == "autograd" or obstacle(models[0], objective, bfloat16):
        return Autograd(models, objective, bfloat16)
    return Perceptron(models, objective)
