"""The power of images and signals in bands of frequencies, which noise raises and blur lowers."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.core.tensors import chunks
from sdegen.metrics.distances import w1

PER_OCTAVE = 2
"""Number of bands in which the frequency doubles."""
FAINT = 1e-3
"""Power, in means of the band over the reference, that is added to each power; a flat image then has -30 dB."""


def band_powers(x: Tensor) -> Tensor:
    """Returns the mean power in each band of spatial frequencies, ``(N, C * bands)``, of images ``(N, C, *)``.

    The bands are half octaves of the absolute frequency, from one period along the longest side on. The mean of an
    image is left out.
    """
    channels, *sides = x.shape[1:]
    axes = tuple(range(2, x.ndim))
    frequencies = torch.meshgrid(*(torch.fft.fftfreq(side, dtype=torch.float64) for side in sides), indexing="ij")
    radius = torch.stack(frequencies).norm(dim=0)
    # The small number keeps frequencies on the edge of a band in the upper band.
    octave = torch.log2(radius * max(sides)).flatten() + 1e-6
    band = torch.where(octave >= 0, octave * PER_OCTAVE, -1.0).long()
    used = band[band >= 0].unique()
    means = torch.stack([(band == i).double() / (band == i).sum() for i in used], 1)
    parts = [torch.fft.fftn(part.double(), dim=axes, norm="ortho").abs().square() for part in chunks(x)]
    return torch.cat([(part.flatten(2) @ means).flatten(1) for part in parts])


def spectral(x: Tensor, y: Tensor) -> float:
    """Returns the W1 distance in decibels between powers ``x`` ``(N, B)`` and ``y`` ``(M, B)``, averaged over bands."""
    mean = y.mean(0)
    scale = mean.clamp(min=max(float(mean.max()) * 1e-12, 1e-30))
    decibels = [10 * torch.log10(powers / scale + FAINT) for powers in (x, y)]
    return float(w1(decibels[0].T.contiguous(), decibels[1].T.contiguous()).mean())
