"""U-Net of the DDPM++ family."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdegen.core.checks import in_range
from sdegen.networks.base import Network
from sdegen.networks.condition import condition_of
from sdegen.networks.embedding import GaussianFourier, by_row

GROUP = 8
"""Smallest number of channels that are normalised together."""


class Block(nn.Module):
    """Two convolutions and a shortcut. The embedding of time and class scales and shifts the output of the first.

    The weights of the second convolution are zero at first, so that a new block computes only the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(width, 2 * outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv2(functional.silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale)))
        # The factor keeps the variance at one for any number of blocks.
        return (self.shortcut(x) + hidden) * math.sqrt(0.5)


class Attention(nn.Module):
    """Self-attention over the pixels, and a shortcut.

    A head has at least 64 channels, or all channels if the layer has fewer than 64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // (8 * GROUP)))
        self.norm, self.qkv = norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(seen.transpose(2, 3).reshape(b, c, h, w))) * math.sqrt(0.5)


class UNet(Network):
    r"""Residual blocks at decreasing and increasing resolution, with skip connections and attention.

    The time may be any real number, such as t itself or EDM's :math:`\tfrac14 \log(\sigma/\alpha)`.

    References: Ho, Jain & Abbeel (2020), https://arxiv.org/abs/2006.11239; DDPM++ of Song et al. (2021), appendix H;
    scale and shift as in Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672

    Args:
        shape: shape ``(C, H, W)`` of an image, taken from the data.
        classes: number of classes, taken from the data.
        channels: number of channels of the first level, a multiple of 8.
        multipliers: number of channels of each level, divided by ``channels``. Height and width are halved between two
            levels.
        blocks: number of residual blocks of each level in the encoder. Each level of the decoder has one block more.
        attention: heights of the image, in patches, at which attention follows each residual block.
        patch: side of the squares of pixels that the network treats as channels. With 2, a step is about four times as
            fast.
        fourier_features: number of Fourier features of the time, even.
        fourier_scale: standard deviation of the frequencies of the features, in cycles per unit of the time input.
        label_dropout: share of the training rows whose class is hidden, so that the network learns the score both with
            and without a class (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598); null if the
            network takes no class.
    """

    # Torch's attention has no second derivative.
    rough = "use network=scorenet"

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int | None,
        channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (8,),
        patch: int = 1,
        fourier_features: int = 64,
        fourier_scale: float = 1.0,
        label_dropout: float | None = None,
    ) -> None:
        super().__init__()
        colours, height, side = picture(shape)
        if channels < GROUP or channels % GROUP:
            raise ValueError(f"channels={channels} must be a multiple of {GROUP}")
        if not multipliers or min(multipliers) < 1:
            raise ValueError(
                f"multipliers={list(multipliers)} must have one or more numbers, each at least 1: try [1,2]"
            )
        in_range("blocks", blocks, at_least=1)
        if patch < 1 or height % patch or side % patch:
            raise ValueError(f"patch={patch} does not divide images of {height} × {side}: try patch=1")
        check_halvings("multipliers", multipliers, height, side, patch)
        self.patch, self.condition = patch, condition_of(classes, label_dropout)
        width, pixels = 4 * channels, colours * patch**2
        self.time = GaussianFourier(fourier_features, fourier_scale)
        self.embedding = nn.Sequential(nn.Linear(fourier_features, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = None if self.condition is None else self.condition.embedding(width)
        self.entry = nn.Conv2d(pixels, channels, 3, padding=1)
        sizes = [channels * m for m in multipliers]
        attends = [-(-height // (patch * 2**level)) in attention for level in range(len(sizes))]
        self._build_stages(channels, sizes, attends, blocks, width)
        self.exit = nn.Sequential(norm(sizes[0]), nn.SiLU(), zero(nn.Conv2d(sizes[0], pixels, 3, padding=1)))

    def _build_stages(self, inputs: int, sizes: list[int], attends: list[bool], blocks: int, width: int) -> None:
        """Builds the encoder, the middle and the decoder, for levels with ``sizes`` channels."""
        self.down, skips = nn.ModuleList(), [inputs]
        for level, outputs in enumerate(sizes):
            if level > 0:
                self.down.append(Halved(inputs))
                skips.append(inputs)
            for _ in range(blocks):
                self.down.append(Stage(inputs, outputs, width, attends[level]))
                skips.append(outputs)
                inputs = outputs
        self.middle = nn.ModuleList(Stage(inputs, inputs, width, attention) for attention in (True, False))
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(sizes))):
            for _ in range(blocks + 1):
                self.up.append(Stage(inputs + skips.pop(), outputs, width, attends[level]))
                inputs = outputs

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.embedding(self.time(by_row(t, x)))
        if self.condition is not None and self.labels is not None:
            embedding = embedding + self.labels(self.condition.codes(y, x))
        embedding = functional.silu(embedding)
        hidden = interleaved(self.entry(functional.pixel_unshuffle(x, self.patch)))
        skips = [hidden]
        for part in self.down:
            hidden = part(hidden, embedding)
            skips.append(hidden)
        for part in self.middle:
            hidden = part(hidden, embedding)
        for part in self.up:
            skip = skips.pop()
            if hidden.shape[-2:] != skip.shape[-2:]:
                hidden = functional.interpolate(hidden, size=skip.shape[-2:], mode="nearest")
            hidden = part(torch.cat([hidden, skip], dim=1), embedding)
        return functional.pixel_shuffle(self.exit(hidden), self.patch).contiguous()


class Stage(nn.Module):
    """A residual block, optionally followed by attention."""

    def __init__(self, inputs: int, outputs: int, width: int, attention: bool) -> None:
        super().__init__()
        self.block = Block(inputs, outputs, width)
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class Halved(nn.Module):
    """A convolution with stride 2. It ignores the embedding, which all parts of the network have as an argument."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)


def picture(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns the shape ``(C, H, W)`` of an image, or raises ValueError if points are not images."""
    if len(shape) != 3:
        raise ValueError(f"points of shape {tuple(shape)} are not images (C, H, W): use network=mlp")
    return shape[0], shape[1], shape[2]


def colours_of(shape: tuple[int, ...], channels: tuple[int, ...]) -> int:
    """Returns the number of colours of an image, or raises ValueError if the levels cannot have these channels."""
    colours, height, side = picture(shape)
    if not channels or any(c < GROUP or c % GROUP for c in channels):
        raise ValueError(f"channels={list(channels)} must be one or more multiples of {GROUP}: try [32,64,128]")
    check_halvings("channels", channels, height, side)
    return colours


def check_halvings(option: str, levels: tuple[int, ...], height: int, side: int, patch: int = 1) -> None:
    """Raises ValueError if an image is too small to be halved between ``levels``, the value of an option."""
    if min(height, side) // patch < 2 ** (len(levels) - 1):
        raise ValueError(
            f"{option}={list(levels)} needs images that can be halved {len(levels) - 1} times, and images of "
            f"{height} × {side} are too small{f' with patch={patch}' if patch > 1 else ''}: "
            f"use fewer numbers in {option}"
        )


def interleaved(x: Tensor) -> Tensor:
    """Returns x in channels-last order. The next layers keep this order, which makes convolutions faster."""
    return x.contiguous(memory_format=torch.channels_last)


def norm(channels: int) -> nn.GroupNorm:
    """Returns group normalisation with at most 32 groups, of at least :data:`GROUP` channels each."""
    groups = next(n for n in range(min(32, channels // GROUP), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Sets the parameters of a convolution to zero, and returns the convolution."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
