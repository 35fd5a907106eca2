"""Residual blocks at decreasing resolution, on which networks that predict a class or a condition are built."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from sdegen.networks.base import Network
from sdegen.networks.embedding import GaussianFourier, by_row
from sdegen.networks.layers import Halved, Stage, interleaved
from sdegen.networks.unet import colours_of
from sdegen.sde.base import LinearSDE


class Encoder(Network):
    """Network that begins with residual blocks at decreasing resolution. Each block also takes the noise level.

    Args:
        shape: shape ``(C, H, W)`` of an image.
        sde: forward process.
        channels: numbers of channels of the levels, multiples of 8. Height and width are halved between two levels.
        fourier_features: number of Fourier features of the noise level.
        instead: network to use for points that are not images, for a message.
    """

    process = LinearSDE

    def __init__(
        self, shape: tuple[int, ...], sde: LinearSDE, channels: tuple[int, ...], fourier_features: int, instead: str
    ) -> None:
        super().__init__()
        colours = colours_of(shape, channels, instead)
        self.sde, width = sde, 2 * fourier_features
        self.noise = GaussianFourier(fourier_features, 1.0)
        self.embedding = nn.Sequential(nn.Linear(fourier_features, width), nn.SiLU())
        self.entry = nn.Conv2d(colours, channels[0], 3, padding=1)
        self.body = nn.ModuleList()
        for inputs, outputs in itertools.pairwise((channels[0], *channels)):
            if self.body:
                self.body.append(Halved(inputs, nn.Conv2d))
            self.body.append(Stage(inputs, outputs, width, False, nn.Conv2d))

    def encoded(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns the output of the last block, ``(B, channels, h, w)``, at images and their noise levels."""
        embedding = functional.silu(self.embedding(self.noise(by_row(level, x))))
        hidden = interleaved(self.entry(x))
        for part in self.body:
            hidden = part(hidden, embedding)
        return hidden
