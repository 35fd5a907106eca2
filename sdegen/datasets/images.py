"""Images: handwritten digits, and folders of picture files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from sdegen.core.checks import in_range
from sdegen.datasets import packing, pictures
from sdegen.datasets.base import Dataset, Shuffle, split
from sdegen.datasets.checks import check_memory, check_share, prefixed
from sdegen.datasets.description import Description
from sdegen.datasets.disk import Disk, shared
from sdegen.datasets.units import Affine

LONGEST = 2**14
"""Largest side of an image."""


class Digits(Dataset):
    """Handwritten digits, 1797 images of 1 × 8 × 8 pixels with 17 levels, as in section 5.3 of the paper.

    The images are from scikit-learn's ``load_digits``. The network's units are x/8 - 1, from -1 to 1. A fifth of the
    images of each digit is held out, the same images for every seed.

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


class Folder(Dataset):
    """Images ``(N, C, H, W)`` from a folder of PNG, JPEG, WebP, BMP and TIFF files.

    Sub-folders are classes with the names of the folders: the first sub-folder in sorted order is class 0, the second
    is class 1, and so on. Without sub-folders there are no classes. Hidden files and files of the operating system are
    skipped, and every other file must be an image. The orientation in EXIF data is applied.

    Images have 256 levels. If all files are grey with 16 bits, their values are kept, and the number of levels is the
    smallest power of two above the largest value. The network's units are from -1 for level 0 to 1 for the last level.

    The decoded images of a large folder are packed once into a file in ``~/.cache/sdegen`` (or in the folder that the
    environment variable ``XDG_CACHE_HOME`` names), which later runs read instead. They are packed again when a file has
    changed. If they take more than :attr:`MAPPED` bytes, they stay on the disk.

    Args:
        path: path of the folder.
        size: side of the images, or their height and width: ``64`` or ``[48,64]``. Each image is scaled, without
            aliasing, until it covers this size, and the centre is kept. With null, all images must have one size.
        colour: colours to which the images are converted, ``rgb`` or ``grey``.
        held_out: share of the images of each class that are used only for metrics, not for training; the same images
            for every seed.
        dequantize: see :class:`Dataset`.
        shuffle: see :class:`Dataset`.
    """

    FILES, BYTES = 1000, 2**24
    """Number of files, and number of bytes in the files, up to which a folder is read at each start and not packed."""
    MAPPED = 256 * 2**20
    """Size in bytes above which packed images stay on the disk."""

    def __init__(
        self,
        path: str,
        size: int | tuple[int, int] | None = None,
        colour: Literal["rgb", "grey"] = "rgb",
        held_out: float = 0.2,
        dequantize: bool = True,
        shuffle: Shuffle = "auto",
    ) -> None:
        check_share(held_out)
        for side in () if size is None else (size,) if isinstance(size, int) else size:
            in_range("size", side, at_least=1, at_most=LONGEST)
        listing = pictures.listed(Path(path))
        groups, classes = listing.groups, len(listing.classes) or None
        labels = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
        train, kept = split(labels, held_out)
        if len(train) < 2 or not len(kept):
            raise ValueError(
                f"held_out={held_out:g}: of {len(labels)} images in {len(groups)} classes, {len(train)} are left to "
                f"train on and {len(kept)} are held out: add images, or set another share"
            )
        # Held-out images come last, so that both parts can stay on the disk.
        order, files = torch.cat([train, kept]).tolist(), [file for group in groups for file in group]
        sides = size if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
        images, levels, report = self._read(Path(path), files, order, sides, colour)
        x, place = shared(images), Disk.of(images)
        if x.dtype == torch.int32:
            report = (*report, f"16 bits per pixel: the values are kept, and lie below {levels}, the number of levels")
        super().__init__(
            x[: len(train)],
            x[len(train) :],
            levels=levels,
            units=Affine.of_levels(levels, tuple(x.shape[1:])),
            y=None if classes is None else labels[train],
            held_out_y=None if classes is None else labels[kept],
            classes=classes,
            dequantize=dequantize,
            disk=place,
            shuffle=shuffle,
            description=Description((), listing.classes, (*pictures.skipped_in_words(listing.skipped), *report)),
        )

    def _read(
        self, path: Path, files: list[Path], order: list[int], size: tuple[int, int] | None, colour: str
    ) -> tuple[np.ndarray, int, tuple[str, ...]]:
        """Returns the images ``(N, C, H, W)`` in an order, the number of levels, and sentences about the images.

        All headers are checked before the first image is decoded.
        """
        place = packing.place(path, [files[i] for i in order], (size, colour))
        pack = packing.read(place, len(files))
        if pack is None:
            found, mode = pictures.headers(files), {"rgb": "RGB", "grey": "L"}[colour]
            size, deep = size or pictures.common_size(files, found), pictures.common_depth(files, found)
            rows = pictures.arrays([files[i] for i in order], mode, size, deep)
            decoded, report = (
                len(files) * len(mode) * math.prod(size) * (4 if deep else 1),
                pictures.in_words(found, size),
            )
            if len(files) <= self.FILES and place.bytes <= self.BYTES and decoded <= self.MAPPED:
                with prefixed(f"path={path}: ", " or smaller images"):
                    check_memory(decoded)
                x = np.stack(list(rows))
                pack = packing.Pack(x, packing.levels(int(x.max())), report)
            else:
                pack = packing.write(place, rows, len(files), report)
        return pack.x if pack.x.nbytes > self.MAPPED else np.array(pack.x), pack.levels, pack.report
