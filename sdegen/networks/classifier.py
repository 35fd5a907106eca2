"""Networks that classify noisy data."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sdegen.core.tensors import expand
from sdegen.networks.base import Network
from sdegen.networks.embedding import by_row
from sdegen.networks.encoder import Encoder
from sdegen.networks.layers import norm
from sdegen.networks.mlp import perceptron
from sdegen.sde.base import LinearSDE


class ClassifierMLP(Network):
    """Fully connected layers with the inputs x and t. On 8 × 8 images, this is the paper's classifier (appendix F).

    Args:
        shape: shape of one point, taken from the data.
        classes: number of classes, taken from the data.
        hidden: widths of the hidden layers.
        activation: activation function: ``relu`` (as in the paper), ``silu`` or ``tanh``.
    """

    predicts = "class"

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int | None,
        hidden: tuple[int, ...] = (128, 128),
        activation: Literal["relu", "silu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        self.layers = perceptron(math.prod(shape) + 1, hidden, number(classes), activation)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the logits ``(B, classes)`` at ``x`` ``(B, *shape)`` and ``t``, ``()`` or ``(B,)``."""
        return self.layers(torch.cat([x.flatten(1), by_row(t, x).unsqueeze(1)], dim=1))


class ClassifierConv(Encoder):
    r"""Residual blocks at decreasing resolution, then a mean over the pixels. Each block also takes the noise level.

    The inputs are :math:`x_t / \sqrt{\alpha_t^2 + \sigma_t^2}` and :math:`\tfrac14 \log(\sigma_t/\alpha_t)`. Both
    inputs are of order one for every SDE and time.

    Args:
        shape: shape ``(C, H, W)`` of an image, taken from the data.
        classes: number of classes, taken from the data.
        sde: forward process, as in the option ``sde``.
        channels: numbers of channels of the levels, multiples of 8. Height and width are halved between two levels.
        fourier_features: number of Fourier features of the noise level.
    """

    predicts = "class"

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int | None,
        sde: LinearSDE,
        channels: tuple[int, ...] = (32, 64, 128),
        fourier_features: int = 64,
    ) -> None:
        super().__init__(shape, sde, channels, fourier_features, "classifier_mlp")
        self.exit = nn.Sequential(norm(channels[-1]), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], number(classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the logits ``(B, classes)`` at ``x`` ``(B, C, H, W)`` and ``t``, ``()`` or ``(B,)``."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        scaled = x / expand((alpha**2 + sigma**2).sqrt(), x)
        return self.head(self.exit(self.encoded(scaled, 0.25 * (sigma / alpha).log())))


def number(classes: int | None) -> int:
    """Returns the number of classes. Raises ValueError if the data have no classes."""
    if classes is None:
        raise ValueError(
            "the data set has no labels, which a classifier needs: use a data set with labels, such as dataset=digits"
        )
    return classes
