"""Layers of networks for images and signals.

They take the class of their convolutions, ``nn.Conv2d`` for images ``(B, C, H, W)`` and ``nn.Conv1d`` for signals
``(B, C, L)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

Convolution = type[nn.Conv1d] | type[nn.Conv2d]

GROUP = 8
"""Smallest number of channels that are normalised together."""
CONVOLUTIONS: dict[int, Convolution] = {1: nn.Conv1d, 2: nn.Conv2d}
"""Classes of convolutions by the number of their dimensions."""


class Block(nn.Module):
    """Two convolutions and a shortcut. The embedding of time and condition scales and shifts the output of the first.

    The weights of the second convolution are zero at first, so that a new block computes only the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, width: int, convolution: Convolution) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1 = convolution(inputs, outputs, 3, padding=1)
        self.conv2 = zero(convolution(outputs, outputs, 3, padding=1))
        self.modulation = nn.Linear(width, 2 * outputs)
        self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding).unflatten(1, (-1, *[1] * (x.ndim - 2))).chunk(2, dim=1)
        hidden = self.conv2(functional.silu(torch.addcmul(shift, self.norm2(hidden), 1 + scale)))
        # The factor keeps the variance at one for any number of blocks.
        return (self.shortcut(x) + hidden) * math.sqrt(0.5)


class Attention(nn.Module):
    """Self-attention over the pixels or steps, and a shortcut.

    A head has at least 64 channels, or all channels if the layer has fewer than 64.
    """

    def __init__(self, channels: int, convolution: Convolution) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // (8 * GROUP)))
        self.norm, self.qkv = norm(channels), convolution(channels, 3 * channels, 1)
        self.out = zero(convolution(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, *size = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, -1).transpose(3, 4).unbind(1)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(seen.transpose(2, 3).reshape(b, c, *size))) * math.sqrt(0.5)


class Stage(nn.Module):
    """A residual block, optionally followed by attention."""

    def __init__(self, inputs: int, outputs: int, width: int, attention: bool, convolution: Convolution) -> None:
        super().__init__()
        self.block = Block(inputs, outputs, width, convolution)
        self.attention = Attention(outputs, convolution) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class Halved(nn.Module):
    """A convolution with stride 2. It ignores the embedding, which all parts of the network have as an argument."""

    def __init__(self, channels: int, convolution: Convolution) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)


def patches(x: Tensor, patch: int) -> Tensor:
    """Returns images or signals with the entries of each patch as channels."""
    if x.ndim == 4:
        return functional.pixel_unshuffle(x, patch)
    return x.unflatten(2, (-1, patch)).transpose(2, 3).flatten(1, 2)


def from_patches(x: Tensor, patch: int) -> Tensor:
    """Returns the images or signals with these :func:`patches`."""
    if x.ndim == 4:
        return functional.pixel_shuffle(x, patch)
    return x.unflatten(1, (-1, patch)).transpose(2, 3).flatten(2, 3)


def interleaved(x: Tensor) -> Tensor:
    """Returns images in channels-last order, which the next layers keep: convolutions are then faster."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def norm(channels: int) -> nn.GroupNorm:
    """Returns group normalisation with at most 32 groups, of at least :data:`GROUP` channels each."""
    groups = next(n for n in range(min(32, channels // GROUP), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)


def zero(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Sets the parameters of a convolution to zero, and returns the convolution."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
