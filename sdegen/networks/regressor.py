"""Networks that predict the condition of noisy data."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range
from sdegen.core.tensors import expand
from sdegen.networks.base import Network
from sdegen.networks.condition import condition_of
from sdegen.networks.embedding import GaussianFourier, by_row
from sdegen.networks.encoder import Encoder
from sdegen.networks.mlp import perceptron
from sdegen.sde.base import LinearSDE

SMALL = 0.03
"""Noise in standard deviations of the data below which the features of the noise level hardly change. Few times of a
training lie below it, so that a network with finer features would be wrong there."""


class RegressorMLP(Network):
    r"""Fully connected layers that return the numbers of a mixture of Gaussians over the condition of the data.

    The inputs are :math:`\alpha_t x_t / (\alpha_t^2 + \sigma_t^2)`, the best linear estimate of a clean point with
    variance 1, and random Fourier features of :math:`\tfrac14 \log(\sigma_t/\alpha_t + 0.03)`. At large t the
    estimate, and so the gradient in x, goes to zero, as that of :math:`p_t(y \mid x)` does. The covariances are full: a
    condition of k numbers needs (k + 1)(k + 2) / 2 outputs for each Gaussian. Their order is explained in
    :class:`sdegen.models.RegressorModel`.

    Args:
        shape: shape of one point, taken from the data.
        condition_shape: shape of the condition of a point, taken from the data. An image or a signal is a vector.
        sde: forward process, as in the option ``sde``.
        components: number K of Gaussians. One is enough if the distribution of y given a noisy point is close to a
            Gaussian, which it is not if y distinguishes several modes of the data.
        hidden: widths of the hidden layers.
        activation: activation function: ``relu``, ``silu`` or ``tanh``. With ``relu``, the gradient in x has jumps.
        fourier_features: number of Fourier features of the noise level, even.
    """

    predicts = "condition"
    process = LinearSDE

    def __init__(
        self,
        shape: tuple[int, ...],
        condition_shape: tuple[int, ...] | None,
        sde: LinearSDE,
        components: int = 1,
        hidden: tuple[int, ...] = (128, 128, 128),
        activation: Literal["relu", "silu", "tanh"] = "silu",
        fourier_features: int = 32,
    ) -> None:
        super().__init__()
        self.sde, self.components = sde, components
        numbers = numbers_for(condition_shape, components)
        self.condition = condition_of(shape, None, None, condition_shape)
        size = math.prod(shape)
        self.level = GaussianFourier(fourier_features, 1.0)
        self.layers = perceptron(size + fourier_features, hidden, numbers, activation)
        # As in MLP, scale the weights of x by the number of coordinates of x.
        nn.init.kaiming_uniform_(self.layers[0].weight[:, :size].data, a=math.sqrt(5))  # type: ignore[index]
        spread_means(self.layers[-1], condition_shape, components)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the numbers of the Gaussians ``(B, K, F)`` at ``x`` ``(B, *shape)`` and ``t``, ``()`` or ``(B,)``."""
        estimate, level = estimated(self.sde, x, t)
        features = self.level(by_row(level, x))
        return self.layers(torch.cat([estimate.flatten(1), features], dim=1)).unflatten(1, (self.components, -1))


class RegressorConv(Encoder):
    r"""Residual blocks at decreasing resolution that return a mixture of Gaussians over the condition of an image.

    The inputs and the mixture are those of :class:`RegressorMLP`. The last blocks keep the place of each feature, and
    no normalisation follows them: a condition may depend on where something is, and on how bright it is.

    Args:
        shape: shape ``(C, H, W)`` of an image, taken from the data.
        condition_shape: shape of the condition of a point, taken from the data. An image is a vector.
        sde: forward process, as in the option ``sde``.
        components: number K of Gaussians. One is enough if the distribution of y given a noisy point is close to a
            Gaussian, which it is not if y distinguishes several modes of the data.
        channels: numbers of channels of the levels, multiples of 8. Height and width are halved between two levels.
        fourier_features: number of Fourier features of the noise level, even.
    """

    predicts = "condition"

    def __init__(
        self,
        shape: tuple[int, ...],
        condition_shape: tuple[int, ...] | None,
        sde: LinearSDE,
        components: int = 1,
        channels: tuple[int, ...] = (32, 64, 128),
        fourier_features: int = 64,
    ) -> None:
        super().__init__(shape, sde, channels, fourier_features, "regressor_mlp")
        numbers = numbers_for(condition_shape, components)
        self.condition, self.components = condition_of(shape, None, None, condition_shape), components
        # Each convolution of stride 2 rounds the halves up.
        height, width = (-(-side // 2 ** (len(channels) - 1)) for side in shape[1:])
        self.head = nn.Linear(channels[-1] * height * width, numbers)
        spread_means(self.head, condition_shape, components)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the numbers of the Gaussians ``(B, K, F)`` at images ``x`` and ``t``, ``()`` or ``(B,)``."""
        return self.head(self.encoded(*estimated(self.sde, x, t)).flatten(1)).unflatten(1, (self.components, -1))


def estimated(sde: LinearSDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the best linear estimate of clean points with variance 1, and the noise level as an input."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return expand(alpha / (alpha**2 + sigma**2), x) * x, 0.25 * (sigma / alpha + SMALL).log()


def numbers_for(condition_shape: tuple[int, ...] | None, components: int) -> int:
    """Returns the number of outputs for a mixture of Gaussians over a condition; raises ValueError if there is none."""
    if condition_shape is None:
        raise ValueError(
            "the data have no conditions, which a regressor predicts: name their columns with "
            "dataset.condition=[…], or use data with conditions, such as dataset=linear_gaussian"
        )
    k = math.prod(condition_shape)
    return in_range("components", components, at_least=1) * (k + 1) * (k + 2) // 2


def spread_means(head: nn.Module, condition_shape: tuple[int, ...] | None, components: int) -> None:
    """Spreads the means of several Gaussians over the conditions of the data, so that they differ from the start."""
    if components > 1:
        k = math.prod(condition_shape or ())
        nn.init.normal_(head.bias.data.view(components, -1)[:, 1 : k + 1])  # type: ignore[operator]
