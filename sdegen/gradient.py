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

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sdegen.classifier import ClassifierModel
from sdegen.errors import UserError
from sdegen.networks.mlp import MLP
from sdegen.objective import Denoising, Objective, Prepared
from sdegen.rng import RandnLike
from sdegen.score import ScoreModel
from sdegen.sde.base import SDE, LinearSDE
from sdegen.stream import Batch
from sdegen.tensor import expand


class Gradient(ABC):
    """Adds the gradient of a step's loss to that of the weights, which are views of one vector.

    Attributes:
        name: as ``trainer.gradient`` has it.
    """

    name: Literal["autograd", "written"]

    @abstractmethod
    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        """The rows of many steps: see :meth:`Objective.prepare`; of ``weight`` ``(N,)`` each."""

    @abstractmethod
    def add(self, batch: Batch) -> Tensor:
        """Add the gradient of the sum of the weighted losses over the step's rows; the losses, ``(N,)``, detached."""


class Autograd(Gradient):
    """Of any model and objective.

    Args:
        model: whose weights are trained.
        objective: the unweighted loss.
        bfloat16: whether the network runs under autocast.
    """

    name = "autograd"

    def __init__(self, model: ScoreModel | ClassifierModel, objective: Objective, bfloat16: bool = False) -> None:
        self.model, self.objective, self.bfloat16 = model, objective, bfloat16

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor) -> Prepared:
        return self.objective.prepare(sde, x0, t, randn_like)

    def add(self, batch: Batch) -> Tensor:
        with self._autocast(batch.weight.device.type):
            losses = self.objective.loss(self.model.given(batch.y), batch.rows)
        weighted = batch.weight * losses
        (weighted.sum() / batch.total).backward()
        return weighted.detach()

    def _autocast(self, device: str) -> AbstractContextManager:
        return torch.autocast(device, torch.bfloat16) if self.bfloat16 else nullcontext()


@dataclass(frozen=True)
class Affine(Prepared):
    """Features ``x`` ``(N, inputs)`` of a first layer, and what makes a loss of the output F ``(N, d)`` of the last.

    The weighted loss is ``scale`` ``(N,)`` times the squared norm of ``constant + gain * F``, both ``(N, d)``, and its
    gradient at F is ``pull`` ``(N, d)`` times that sum.
    """

    constant: Tensor
    gain: Tensor
    scale: Tensor
    pull: Tensor


class Layer(NamedTuple):
    """A linear layer: its weights, transposed, and bias, and the gradients that are views of the vector's."""

    weight: Tensor
    bias: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    def add(self, x: Tensor, g: Tensor, share: float) -> None:
        """Add what an input ``(N, inputs)`` and the gradient at the output ``(N, outputs)`` make of the weights'.

        Args:
            x: the input.
            g: the gradient at the output, of the sum of the losses.
            share: of that sum in the loss.
        """
        self.bias_gradient.add_(g.sum(0), alpha=share)
        if x.shape[1] < SKINNY:
            # Twice as fast as the product in the other order, where one factor is a few columns wide.
            self.weight_gradient.add_((x.t() @ g).t(), alpha=share)
        else:
            self.weight_gradient.addmm_(g.t(), x, alpha=share)


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
    """Of a multilayer perceptron under denoising score matching, without autograd.

    Args:
        model: a multilayer perceptron, read by an affine parametrization.
        objective: denoising score matching.

    Raises:
        ValueError: the model or the objective is another.
    """

    name = "written"

    def __init__(self, model: ScoreModel | ClassifierModel, objective: Objective) -> None:
        if type(objective) is not Denoising:
            raise ValueError("it is written out for objective=denoising alone")
        if type(model.network) is not MLP or not isinstance(model, ScoreModel):
            raise ValueError("it is written out for network=mlp alone")
        # Not inherited: a user's own may change what it says.
        if not vars(type(model.parametrization)).get("affine"):
            raise ValueError("it is written out for parametrizations that are affine in the network's output")
        self.model, self.network, self.objective = model, model.network, objective
        self.activate, self.derive = ACTIVATIONS[type(model.network.layers[1])]

    @cached_property
    def layers(self) -> list[Layer]:
        """Made at the first step, when the weights are views of a vector."""
        linear = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        return [Layer(p.weight.data.t(), p.bias.data, p.weight.grad, p.bias.grad) for p in linear]  # type: ignore[arg-type]

    def prepare(  # type: ignore[override]
        self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor
    ) -> Affine:
        rows = self.objective.prepare(sde, x0, t, randn_like)
        asked: list[tuple[Tensor, Tensor]] = []

        def score_of(output: float) -> Tensor:
            """The score where the network answers everywhere the same."""

            def network(x: Tensor, t: Tensor) -> Tensor:
                asked.append((x, t))
                return torch.full_like(x, output)

            return self.model.parametrization(network, sde, rows.x, rows.t)

        zero, one = score_of(0.0), score_of(1.0)
        sigma = expand(rows.sigma, rows.x)
        constant, gain = (rows.noise + sigma * zero).flatten(1), (sigma * (one - zero)).flatten(1)
        scale = weight / rows.sigma**2
        pull = 2 * gain * scale.unsqueeze(1)
        return Affine(self.network.features(*asked[0]), rows.t, constant, gain, scale, pull)

    @torch.no_grad()
    def add(self, batch: Batch) -> Tensor:
        rows, share = batch.rows, 1 / batch.total
        assert isinstance(rows, Affine)
        *hidden, last = self.layers
        h, passed = rows.x, []
        for layer in hidden:
            z = torch.addmm(layer.bias, h, layer.weight)
            passed.append((h, z))
            h = self.activate(z)
        residual = torch.addcmul(rows.constant, rows.gain, torch.addmm(last.bias, h, last.weight))
        g = residual * rows.pull
        last.add(h, g, share)
        for layer, after, (x, z) in zip(reversed(hidden), self.layers[:0:-1], reversed(passed), strict=True):
            g = self.derive(g @ after.weight.t(), z, h)
            layer.add(x, g, share)
            h = x
        return rows.scale * residual.square_().sum(1)


def choose(
    asked: Literal["auto", "autograd", "written"],
    model: ScoreModel | ClassifierModel,
    objective: Objective,
    bfloat16: bool,
) -> Gradient:
    """The gradient that is asked for; ``auto`` is the one that is written out where there is one.

    Raises:
        UserError: it is not written out for these.
    """
    if asked != "autograd" and not bfloat16:
        try:
            return Perceptron(model, objective)
        except ValueError as error:
            if asked == "written":
                raise UserError(f"trainer.gradient=written: {error}: use trainer.gradient=auto") from None
    if asked == "written":
        raise UserError("trainer.gradient=written: it has the precision of the weights: use trainer.precision=float32")
    return Autograd(model, objective, bfloat16)
