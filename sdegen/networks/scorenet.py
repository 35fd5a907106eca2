"""The score network of the paper's digits."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdegen.core.tensors import expand
from sdegen.networks.base import Network
from sdegen.networks.embedding import GaussianFourier
from sdegen.networks.unet import interleaved, norm, picture


class Injected(nn.Module):
    """A convolution to whose channels a dense layer of the time's embedding adds, then normalised and activated."""

    def __init__(self, convolution: nn.Module, outputs: int, width: int) -> None:
        super().__init__()
        self.convolution, self.dense, self.norm = convolution, nn.Linear(width, outputs), norm(outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolution(x) + self.dense(embedding)[:, :, None, None]))


class ScoreNet(Network):
    """Convolutions down and up again, joined by skips, each with a dense injection of the time: seven by default.

    The paper names its parts, Gaussian Fourier projections of the time to 256 and seven convolutional layers with a
    dense one each; the rest is read as an encoder and a decoder with group normalisation. The convolutions are padded,
    so that an image of 8 × 8 becomes 4, 2 and 1 wide. What the output stands for is the parametrization's matter.

    Reference: section 5.3 of the paper; Ronneberger et al. (2015), https://arxiv.org/abs/1505.04597

    Args:
        shape: ``(C, H, W)`` of an image; supplied by the experiment.
        channels: of each level; the picture is halved between levels. Multiples of 8.
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
        if not channels or any(c < 8 or c % 8 for c in channels):
            raise ValueError(f"channels={list(channels)} must be one or more multiples of 8: try [32,64,128,256]")
        if min(height, side) < 2 ** (len(channels) - 1):
            raise ValueError(
                f"channels={list(channels)} halve an image {len(channels) - 1} times, and one of {height} × {side} is "
                f"too small for that: use fewer channels"
            )
        self.time = GaussianFourier(embedding, fourier_scale)
        self.embedding = nn.Linear(embedding, embedding)
        self.encoder = nn.ModuleList(
            Injected(nn.Conv2d(inputs, outputs, 3, stride=2 if i else 1, padding=1), outputs, embedding)
            for i, (inputs, outputs) in enumerate(itertools.pairwise((colours, *channels)))
        )
        self.decoder, inputs = nn.ModuleList(), channels[-1]
        for outputs in reversed(channels[:-1]):
            self.decoder.append(Injected(nn.Conv2d(inputs, outputs, 3, padding=1), outputs, embedding))
            # The skip of the same level stands beside it.
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
            # Enlarged by repetition and then convolved: a transposed convolution, without its checkerboard.
            hidden = part(functional.interpolate(hidden, size=skip.shape[-2:], mode="nearest"), embedding)
            hidden = torch.cat([hidden, skip], dim=1)
        return self.exit(hidden).contiguous()
