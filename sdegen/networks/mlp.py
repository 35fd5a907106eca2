"""Multilayer perceptrons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from sdegen.networks.base import Network, number_of
from sdegen.networks.condition import condition_of
from sdegen.networks.embedding import GaussianFourier, by_row

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
MANY = 32
"""Number of features of a condition from which it is worth folding it into the bias of the first layer."""


class MLP(Network):
    """Fully connected layers with the flattened x, the time and the condition as inputs.

    The network takes the conditions of the data, if there are any, and the class if ``label_dropout`` is given.

    Args:
        shape: shape of one point, taken from the data.
        hidden: widths of the hidden layers.
        activation: activation function: ``relu`` (as in the paper), ``silu`` or ``tanh``.
        time_embedding: time input: ``concat`` (as in the paper) for t itself, ``fourier`` for random Fourier features.
        fourier_features: number of Fourier features, even.
        fourier_scale: standard deviation of the frequencies of the features, in cycles per unit of the time input.
        label_dropout: share of the training rows whose class is hidden, so that the network learns the score both with
            and without a class (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598); null if the network takes no
            class.
        condition_dropout: share of the training rows whose condition is hidden, so that the network learns the score
            both with and without the condition; 0 for data without conditions; null if the network does not take
            the condition.
        times: number of times that the network takes: 1 for a score, 2 for a flow map, which has a start and an end;
            ``auto`` for the number that the objective needs.
        classes: number of classes, taken from the data.
        condition_shape: shape of the condition of a point, taken from the data; None if there are no conditions.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (128, 128, 128),
        activation: Literal["relu", "silu", "tanh"] = "silu",
        time_embedding: Literal["concat", "fourier"] = "fourier",
        fourier_features: int = 32,
        fourier_scale: float = 1.0,
        label_dropout: float | None = None,
        condition_dropout: float | None = 0.0,
        times: Literal["auto", 1, 2] = "auto",
        classes: int | None = None,
        condition_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.times = number_of(times)
        # An objective that differentiates the network in x and then in the weights needs the second derivative of the
        # activation. For a ReLU, it is zero except at 0.
        self.rough = "use network.activation=silu" if activation == "relu" else ""
        self.condition = condition_of(shape, classes, label_dropout, condition_shape, condition_dropout)
        size, extra = math.prod(shape), 0 if self.condition is None else self.condition.inputs
        if time_embedding == "concat":
            self.embedding: nn.Module = nn.Unflatten(0, (-1, 1)) if self.times == 1 else nn.Identity()
            self.layers = perceptron(size + self.times + extra, hidden, size, activation)
        else:
            self.embedding = GaussianFourier(fourier_features, fourier_scale)
            self.layers = perceptron(size + self.times * fourier_features + extra, hidden, size, activation)
            # Torch scales the initial weights by the number of all inputs. With many features and few coordinates, the
            # network would then ignore x in the first thousands of steps. So scale the weights of x by the
            # number of coordinates of x.
            nn.init.kaiming_uniform_(self.layers[0].weight[:, :size].data, a=math.sqrt(5))  # type: ignore[index]
        if self.condition is not None:
            self.condition.initialise(self.layers[0].weight[:, -extra:].data)  # type: ignore[index]

    def features(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns the input ``(B, inputs)`` of the first layer, from the arguments of :meth:`forward`."""
        parts = self._inputs(x, t)
        if self.condition is not None:
            parts.append(self.condition.features(y, x))
        return torch.cat(parts, dim=1)

    def _inputs(self, x: Tensor, t: Tensor) -> list[Tensor]:
        """Returns the inputs of the first layer that do not depend on the condition."""
        return [x.flatten(1), self.embedding(by_row(t, x, self.times))]

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self._folds(y):
            return self._folded(y)(x, t)
        return self.layers(self.features(x, t, y)).view_as(x)

    def given(self, y: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        # With gradients, the weights may change between two calls.
        return self._folded(y) if self._folds(y) and not torch.is_grad_enabled() else super().given(y)

    def _folds(self, y: Tensor | None) -> bool:
        """Returns True if ``y`` is one condition of all rows with so many features that folding is worth it."""
        kind = self.condition
        return kind is not None and kind.inputs >= MANY and kind.valued and y is not None and y.ndim <= kind.ndim

    def _folded(self, y: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns the network given a condition, whose product with the first layer is a part of the bias."""
        assert self.condition is not None
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]
        rest = self.layers[1:]
        extra = self.condition.inputs
        own, given = (part.contiguous() for part in first.weight.split([first.in_features - extra, extra], 1))
        bias = first.bias + self.condition.features(y, first.weight[:1])[0] @ given.T

        def folded(x: Tensor, t: Tensor) -> Tensor:
            return rest(nn.functional.linear(torch.cat(self._inputs(x, t), dim=1), own, bias)).view_as(x)

        return folded


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int, activation: str) -> nn.Sequential:
    """Returns linear layers with activations between them.

    Raises:
        ValueError: ``hidden`` is empty or has a width below 1.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden={list(hidden)} must have one or more widths, each at least 1: try [128,128]")
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))
