"""Multilayer perceptrons."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from sdegen.networks.base import Network
from sdegen.networks.embedding import GaussianFourier, by_row

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}


class MLP(Network):
    """Fully connected layers over the flattened x and the time, side by side.

    Args:
        shape: shape of one point; supplied by the experiment.
        hidden: widths of the hidden layers.
        activation: ``relu`` (the paper's), ``silu`` or ``tanh``.
        time_embedding: ``concat`` (the paper's) appends t as a number, ``fourier`` random Fourier features of t.
        fourier_features: number of features.
        fourier_scale: bandwidth of the features, in cycles per unit of the time that the parametrization passes on.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: tuple[int, ...] = (128, 128, 128),
        activation: Literal["relu", "silu", "tanh"] = "silu",
        time_embedding: Literal["concat", "fourier"] = "fourier",
        fourier_features: int = 32,
        fourier_scale: float = 1.0,
    ) -> None:
        super().__init__()
        # The second derivative of a ReLU is zero everywhere but at its kink.
        self.rough = "use network.activation=silu" if activation == "relu" else ""
        size = math.prod(shape)
        if time_embedding == "concat":
            self.embedding: nn.Module = nn.Unflatten(0, (-1, 1))
            self.layers = perceptron(size + 1, hidden, size, activation)
        else:
            self.embedding = GaussianFourier(fourier_features, fourier_scale)
            self.layers = perceptron(size + fourier_features, hidden, size, activation)
            # Torch scales the weights of all inputs by the number of inputs. Beside many features, a few coordinates
            # would then have so little weight that the network ignores x in the first thousands of steps.
            nn.init.kaiming_uniform_(self.layers[0].weight[:, :size].data, a=math.sqrt(5))  # type: ignore[index]

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the input of the first layer: ``(B, *)`` and ``()`` or ``(B,)`` to ``(B, inputs)``."""
        return torch.cat([x.flatten(1), self.embedding(by_row(t, x))], dim=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(self.features(x, t)).view_as(x)


def perceptron(inputs: int, hidden: tuple[int, ...], outputs: int, activation: str) -> nn.Sequential:
    """Returns linear layers with activations between them.

    Raises:
        ValueError: ``hidden`` is empty or has a width below 1.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden={list(hidden)} must be one or more widths, each at least 1: try [128,128]")
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise((inputs, *hidden)):
        layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))
