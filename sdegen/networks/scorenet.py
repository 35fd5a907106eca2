"""The score network of the paper for digits."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdegen.core.tensors import expand
from sdegen.networks.base import Network
from sdegen.networks.embedding import GaussianFourier
from sdegen.networks.unet import check_levels, interleaved, norm, picture


class Injected(nn.Module):
    """A convolution plus a dense layer of the time's embedding, followed by normalisation and activation."""

    def __init__(self, convolution: nn.Module, outputs: int, width: int) -> None:
        super().__init__()
        self.convolution, self.dense, self.norm = convolution, nn.Linear(width, outputs), norm(outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolution(x) + self.dense(embedding)[:, :, None, None]))


class ScoreNet(Network):
    """An encoder and a decoder joined by skips, of seven convolutions by default, each with a dense layer of the time.

    The paper names the parts: Gaussian Fourier projections of the time to 256, and seven convolutional layers with a
    dense one each. The encoder, the decoder and the group normalisation are our reading of it. The convolutions are
    padded, so that an image of 8 × 8 becomes 4, 2 and 1 wide.

    Reference: section 5.3 of the paper; Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597

    Args:
        shape: ``(C, H, W)`` of an image; supplied by the experiment.
        channels: numbers of channels of the levels, multiples of 8; the image is halved between levels.
        embedding: number of Fourier features of the time.
        fourier_scale: their bandwidth, in cycles per unit of time.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: tuple[int, ...] = (32, 64, 128, 256),
        embedding: int = 256,
        fourier_scale: float = 30.0,
    ) -> None:
        super().__init__()
        colours, height, side = picture(shape)
        check_levels(channels, height, side)
        self.time = GaussianFourier(embedding, fourier_scale)
        self.embedding = nn.Linear(embedding, embedding)
        self.encoder = nn.ModuleList(
            Injected(nn.Conv2d(inputs, outputs, 3, stride=2 if i else 1, padding=1), outputs, embedding)
            for i, (inputs, outputs) in enumerate(itertools.pairwise((colours, *channels)))
        )
        self.decoder, inputs = nn.ModuleList(), channels[-1]
        for outputs in reversed(channels[:-1]):
            self.decoder.append(Injected(nn.Conv2d(inputs, outputs, 3, padding=1), outputs, embedding))
            # The skip of the same level is concatenated to it.
            inputs = 2 * outputs
        self.exit = nn.Conv2d(inputs, colours, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedding = functional.silu(self.embedding(self.time(expand(t, x).reshape(-1).expand(len(x)))))
        hidden, skips = x, []
        for part in self.encoder:
            hidden = interleaved(part(hidden, embedding))
            skips.append(hidden)
        skips.pop()
        for part in self.decoder:
            skip = skips.pop()
            # Repetition followed by a convolution avoids the checkerboard of a transposed convolution.
            hidden = part(functional.interpolate(hidden, size=skip.shape[-2:], mode="nearest"), embedding)
            hidden = torch.cat([hidden, skip], dim=1)
        return self.exit(hidden).contiguous()
