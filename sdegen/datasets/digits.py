"""Handwritten digits, on which training takes a minute."""

from __future__ import annotations

import torch

from sdegen.datasets.base import Dataset, split
from sdegen.datasets.units import Affine


class Digits(Dataset):
    """1797 handwritten digits, 1 × 8 × 8, of 17 levels: section 5.3 of the paper (scikit-learn's ``load_digits``).

    The network's units are x/8 - 1, from -1 to 1. A fifth of each digit's images is held out, the same for every seed.

    Reference: Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49

    Args:
        dequantize: see :class:`Dataset`.
    """

    LEVELS, CLASSES, HELD_OUT = 17, 10, 0.2

    def __init__(self, dequantize: bool = True) -> None:
        from sklearn.datasets import load_digits

        loaded = load_digits()
        x, y = torch.from_numpy(loaded.images).to(torch.uint8)[:, None], torch.from_numpy(loaded.target).long()
        train, kept = split(y, self.HELD_OUT)
        super().__init__(
            x[train],
            x[kept],
            levels=self.LEVELS,
            units=Affine.of_levels(self.LEVELS, tuple(x.shape[1:])),
            y=y[train],
            held_out_y=y[kept],
            classes=self.CLASSES,
            dequantize=dequantize,
        )
