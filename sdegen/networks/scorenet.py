"""The paper's score network for digits."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdegen.networks.base import Network, number_of
from sdegen.networks.condition import condition_of
from sdegen.networks.embedding import GaussianFourier, by_row
from sdegen.networks.layers import interleaved, norm
from sdegen.networks.unet import colours_of


class Injected(nn.Module):
    """A convolution plus a dense layer of the embedded time, then normalisation and activation."""

    def __init__(self, convolution: nn.Module, outputs: int, width: int) -> None:
        super().__init__()
        self.convolution, self.dense, self.norm = convolution, nn.Linear(width, outputs), norm(outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolution(x) + self.dense(embedding)[:, :, None, None]))


class ScoreNet(Network):
    """Encoder and decoder with skip connections. Each convolution but the last adds a dense layer of the embedded time.

    The embedding of the data's conditions, and of the class if ``label_dropout`` is given, is added to the embedding of
    the time. A condition that is an image is appended to the channels of x.

    The paper names 256 Gaussian Fourier features of the time and seven convolutional layers with a dense layer each. It
    does not define the encoder, the decoder and the normalisation, which are our choice. The convolutions are padded:
    the levels of an image of 8 × 8 have 8 × 8, 4 × 4, 2 × 2 and 1 × 1 pixels.

    Reference: section 5.3 of the paper; Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597

    Args:
        shape: shape ``(C, H, W)`` of an image, taken from the data.
        channels: numbers of channels of the levels, multiples of 8. Height and width are halved between two levels.
            Four levels give the seven convolutions of the paper.
        embedding: number of Fourier features of the time, even.
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
        channels: tuple[int, ...] = (32, 64, 128, 256),
        embedding: int = 256,
        fourier_scale: float = 30.0,
        label_dropout: float | None = None,
        condition_dropout: float | None = 0.0,
        times: Literal["auto", 1, 2] = "auto",
        classes: int | None = None,
        condition_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.times = number_of(times)
        colours = colours_of(shape, channels, "unet for signals, or network=mlp")
        self.time = GaussianFourier(embedding, fourier_scale)
        self.embedding = nn.Linear(self.times * embedding, embedding)
        self.condition = condition_of(shape, classes, label_dropout, condition_shape, condition_dropout)
        self.labels = None if self.condition is None else self.condition.embedding(embedding)
        planes = 0 if self.condition is None else self.condition.planes
        self.encoder = nn.ModuleList(
            Injected(nn.Conv2d(inputs, outputs, 3, stride=2 if i else 1, padding=1), outputs, embedding)
            for i, (inputs, outputs) in enumerate(itertools.pairwise((colours + planes, *channels)))
        )
        self.decoder, inputs = nn.ModuleList(), channels[-1]
        for outputs in reversed(channels[:-1]):
            self.decoder.append(Injected(nn.Conv2d(inputs, outputs, 3, padding=1), outputs, embedding))
            # The next part takes this output and the output of the encoder at the same level.
            inputs = 2 * outputs
        self.exit = nn.Conv2d(inputs, colours, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.embedding(self.time(by_row(t, x, self.times)))
        hidden, skips = x, []
        if self.condition is not None and self.labels is not None:
            embedding = embedding + self.labels(self.condition.codes(y, x))
            hidden = self.condition.appended(x, y)
        embedding = functional.silu(embedding)
        for part in self.encoder:
            hidden = interleaved(part(hidden, embedding))
            skips.append(hidden)
        skips.pop()
        for part in self.decoder:
            skip = skips.pop()
            # Upsampling and then a convolution avoid the checkerboard patterns of a transposed convolution.
            hidden = part(functional.interpolate(hidden, size=skip.shape[-2:], mode="nearest"), embedding)
            hidden = torch.cat([hidden, skip], dim=1)
        return self.exit(hidden).contiguous()
