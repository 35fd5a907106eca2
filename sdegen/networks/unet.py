"""U-Net of the DDPM++ family, for images and signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sdegen.core.checks import in_range
from sdegen.core.tensors import leave_out_compiler
from sdegen.networks.base import Network, number_of
from sdegen.networks.condition import condition_of
from sdegen.networks.embedding import GaussianFourier, by_row
from sdegen.networks.layers import (
    CONVOLUTIONS,
    GROUP,
    Convolution,
    Halved,
    Stage,
    from_patches,
    interleaved,
    norm,
    patches,
    zero,
)

KIND = {1: "signals", 2: "images"}
"""Names of points by the number of their dimensions."""


class UNet(Network):
    r"""Residual blocks at decreasing and increasing resolution, with skip connections and attention.

    The convolutions have two dimensions for images and one dimension for signals.

    The time may be any real number, such as t itself or EDM's :math:`\tfrac14 \log(\sigma/\alpha)`.

    References: Ho, Jain & Abbeel (2020), https://arxiv.org/abs/2006.11239; DDPM++ of Song et al. (2021), appendix H;
    scale and shift as in Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672

    Args:
        shape: shape ``(C, H, W)`` of an image or ``(C, L)`` of a signal, taken from the data.
        classes: number of classes, taken from the data.
        channels: number of channels of the first level, a multiple of 8.
        multipliers: number of channels of each level, divided by ``channels``. Height and width, or the length of a
            signal, are halved between two levels.
        blocks: number of residual blocks of each level in the encoder. Each level of the decoder has one block more.
        attention: heights of the image, or lengths of the signal, in patches, at which attention follows each residual
            block.
        patch: side of the squares of pixels, or length of the pieces of a signal, that the network treats as channels.
            With 2, a step is about four times as fast for images, and twice as fast for signals.
        fourier_features: number of Fourier features of the time, even.
        fourier_scale: standard deviation of the frequencies of the features, in cycles per unit of the time input.
        label_dropout: share of the training rows whose class is hidden, so that the network learns the score both with
            and without a class (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598); null if the
            network takes no class.
        condition_dropout: share of the training rows whose condition is hidden, so that the network learns the score
            both with and without the condition; 0 for data without conditions; null if the network does not take
            the condition.
        recompute: True to compute the activations of each block again in the backward pass instead of keeping them
            (activation checkpointing). A step then needs less memory and takes a third to a half longer. The gradients
            are the same, bit for bit on a CPU.
        times: number of times that the network takes: 1 for a score, 2 for a flow map, which has a start and an end;
            ``auto`` for the number that the objective needs.
        condition_shape: shape of the condition of a point, taken from the data; None if there are no conditions.
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
        condition_dropout: float | None = 0.0,
        recompute: bool = False,
        times: Literal["auto", 1, 2] = "auto",
        condition_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.recompute, self.times = recompute, number_of(times)
        leave_out_compiler(checkpoint)
        dimensions = len(shape) - 1
        if dimensions not in CONVOLUTIONS:
            raise ValueError(
                f"points of shape {tuple(shape)} are neither images (C, H, W) nor signals (C, L): use network=mlp"
            )
        convolution, sizes = CONVOLUTIONS[dimensions], shape[1:]
        if channels < GROUP or channels % GROUP:
            raise ValueError(f"channels={channels} must be a multiple of {GROUP}")
        if not multipliers or min(multipliers) < 1:
            raise ValueError(
                f"multipliers={list(multipliers)} must have one or more numbers, each at least 1: try [1,2]"
            )
        in_range("blocks", blocks, at_least=1)
        if patch < 1 or any(size % patch for size in sizes):
            raise ValueError(f"patch={patch} does not divide {in_words(sizes)}: try patch=1")
        check_halvings("multipliers", multipliers, sizes, patch)
        self.condition = condition_of(shape, classes, label_dropout, condition_shape, condition_dropout)
        self.patch, planes = patch, 0 if self.condition is None else self.condition.planes
        width, pixels = 4 * channels, shape[0] * patch**dimensions
        self.time = GaussianFourier(fourier_features, fourier_scale)
        self.embedding = nn.Sequential(
            nn.Linear(self.times * fourier_features, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.labels = None if self.condition is None else self.condition.embedding(width)
        self.entry = convolution(pixels + planes * patch**dimensions, channels, 3, padding=1)
        levels = [channels * m for m in multipliers]
        attends = [-(-sizes[0] // (patch * 2**level)) in attention for level in range(len(levels))]
        self._build_stages(channels, levels, attends, blocks, width, convolution)
        self.exit = nn.Sequential(norm(levels[0]), nn.SiLU(), zero(convolution(levels[0], pixels, 3, padding=1)))

    def _build_stages(
        self, inputs: int, levels: list[int], attends: list[bool], blocks: int, width: int, convolution: Convolution
    ) -> None:
        """Builds the encoder, the middle and the decoder, for levels with these numbers of channels."""
        self.down, skips = nn.ModuleList(), [inputs]
        for level, outputs in enumerate(levels):
            if level > 0:
                self.down.append(Halved(inputs, convolution))
                skips.append(inputs)
            for _ in range(blocks):
                self.down.append(Stage(inputs, outputs, width, attends[level], convolution))
                skips.append(outputs)
                inputs = outputs
        self.middle = nn.ModuleList(Stage(inputs, inputs, width, attention, convolution) for attention in (True, False))
        self.up = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(levels))):
            for _ in range(blocks + 1):
                self.up.append(Stage(inputs + skips.pop(), outputs, width, attends[level], convolution))
                inputs = outputs

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = self.embedding(self.time(by_row(t, x, self.times)))
        if self.condition is not None and self.labels is not None:
            embedding = embedding + self.labels(self.condition.codes(y, x))
            x = self.condition.appended(x, y)
        embedding = functional.silu(embedding)
        hidden = interleaved(self.entry(patches(x, self.patch)))
        skips = [hidden]
        for part in self.down:
            hidden = self._run(part, embedding, hidden)
            skips.append(hidden)
        for part in self.middle:
            hidden = self._run(part, embedding, hidden)
        for part in self.up:
            skip = skips.pop()
            if hidden.shape[2:] != skip.shape[2:]:
                hidden = functional.interpolate(hidden, size=skip.shape[2:], mode="nearest")
            hidden = self._run(part, embedding, hidden, skip)
        return from_patches(self.exit(hidden), self.patch).contiguous()

    def _run(self, part: nn.Module, embedding: Tensor, *inputs: Tensor) -> Tensor:
        """Returns the output of a part for inputs that are concatenated. With ``recompute``, only these are kept."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(_output, part, embedding, *inputs, use_reentrant=False)
        return _output(part, embedding, *inputs)


def _output(part: nn.Module, embedding: Tensor, *inputs: Tensor) -> Tensor:
    return part(torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0], embedding)


def picture(shape: tuple[int, ...], instead: str) -> tuple[int, int, int]:
    """Returns the shape ``(C, H, W)`` of an image; raises ValueError with the network to use ``instead`` for others."""
    if len(shape) != 3:
        raise ValueError(f"points of shape {tuple(shape)} are not images (C, H, W): use network={instead}")
    return shape[0], shape[1], shape[2]


def colours_of(shape: tuple[int, ...], channels: tuple[int, ...], instead: str) -> int:
    """Returns the number of colours of an image.

    Raises:
        ValueError: the points are not images, for which the message names the network to use ``instead``, or the levels
            cannot have these channels.
    """
    colours, *sizes = picture(shape, instead)
    if not channels or any(c < GROUP or c % GROUP for c in channels):
        raise ValueError(f"channels={list(channels)} must be one or more multiples of {GROUP}: try [32,64,128]")
    check_halvings("channels", channels, sizes)
    return colours


def check_halvings(option: str, levels: tuple[int, ...], sizes: Sequence[int], patch: int = 1) -> None:
    """Raises ValueError if sides of ``sizes`` are too short to be halved between ``levels``, the value of an option."""
    if min(sizes) // patch < 2 ** (len(levels) - 1):
        raise ValueError(
            f"{option}={list(levels)} needs {KIND[len(sizes)]} that can be halved {len(levels) - 1} times, and "
            f"{in_words(sizes)} are too small{f' with patch={patch}' if patch > 1 else ''}: "
            f"use fewer numbers in {option}"
        )


def in_words(sizes: Sequence[int]) -> str:
    """Returns the size of images or signals in words."""
    return f"{KIND[len(sizes)]} of {' × '.join(map(str, sizes))}{' steps' * (len(sizes) == 1)}"
