"""Images: handwritten digits, and folders of PNG and JPEG files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sdegen.datasets.base import Dataset, check_memory, check_share, prefixed, split
from sdegen.datasets.units import Affine


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
    """Images with 256 levels, ``(N, C, H, W)``, from PNG and JPEG files of the same width and height.

    Sub-folders are classes: the first sub-folder in sorted order is class 0, the second is class 1, and so on. Without
    sub-folders there are no classes. Hidden files are skipped, and every other file must be an image. All images are
    read into memory as they are stored: an orientation in the metadata is ignored. The network's units are
    x/127.5 - 1, from -1 to 1.

    Args:
        path: path of the folder.
        colour: colours to which the images are converted, ``rgb`` or ``grey``.
        held_out: share of the images of each class that are used only for metrics, not for training; the same images
            for every seed.
        dequantize: see :class:`Dataset`.
    """

    LEVELS = 256

    def __init__(
        self, path: str, colour: Literal["rgb", "grey"] = "rgb", held_out: float = 0.2, dequantize: bool = True
    ) -> None:
        check_share(held_out)
        groups = _groups(Path(path))
        classes = len(groups) if len(groups) > 1 or groups[0][0].parent != Path(path) else None
        files = [file for group in groups for file in group]
        labels = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
        train, kept = split(labels, held_out)
        if len(train) < 2 or not len(kept):
            raise ValueError(
                f"held_out={held_out:g}: of {len(files)} images in {len(groups)} classes, {len(train)} are left to "
                f"train on and {len(kept)} are held out: add images, or set another share"
            )
        x = _images(files, {"rgb": "RGB", "grey": "L"}[colour])
        super().__init__(
            x[train],
            x[kept],
            levels=self.LEVELS,
            units=Affine.of_levels(self.LEVELS, tuple(x.shape[1:])),
            y=None if classes is None else labels[train],
            held_out_y=None if classes is None else labels[kept],
            classes=classes,
            dequantize=dequantize,
        )


def _groups(folder: Path) -> list[list[Path]]:
    """Returns the sorted files of each sub-folder, or of the folder itself if there is no sub-folder."""
    if not os.path.isdir(folder):
        raise ValueError(
            f"path={folder}: {'is a file, not a' if os.path.isfile(folder) else 'no such'} folder: give a folder"
        )
    inside = _listed(folder)
    folders = [path for path in inside if path.is_dir()]
    for path in inside:
        if folders and path not in folders:
            raise ValueError(f"path={path}: lies beside folders of classes: move it into one of them, or remove it")
    groups = [_listed(path) for path in folders] or [inside]
    for path, group in zip(folders or [folder], groups, strict=True):
        if not group:
            raise ValueError(f"path={path}: holds no image: add images, or remove the folder")
        for file in group:
            if file.is_dir():
                raise ValueError(f"path={file}: is a folder within the folder of a class: move its images up")
    return groups


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ValueError(f"path={folder}: cannot be read: {error.strerror}: check the permissions") from None


def _images(files: list[Path], mode: str) -> Tensor:
    """Reads files as bytes ``(N, C, H, W)`` in a Pillow mode. Checks all headers before the first image is decoded."""
    sizes = [_size(file) for file in files]
    width, height = sizes[0]
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise ValueError(
                f"path={file}: is {size[0]} × {size[1]} pixels, but {files[0].name} is {width} × {height}: resize all "
                f"to one size, for example by mogrify -resize 32x32! {file.parent}/*"
            )
    with prefixed(f"path={files[0].parent}: ", " or smaller images"):
        check_memory(len(files) * len(mode) * height * width)
    x = np.empty((len(files), len(mode), height, width), dtype=np.uint8)
    for row, file in zip(x, files, strict=True):
        row[...] = np.moveaxis(_pixels(file, mode).reshape(height, width, len(mode)), 2, 0)
    return torch.from_numpy(x)


def _size(file: Path) -> tuple[int, int]:
    """Returns width and height from the header; raises ValueError for a damaged header or pixels that are not bytes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                size, mode = image.size, image.mode
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"path={file}: has too many pixels to be decoded: remove or shrink it") from None
    except UnidentifiedImageError:
        raise ValueError(f"path={file}: is not a PNG or JPEG image: remove or convert it") from None
    except Exception as error:  # Pillow raises many types of errors on damaged files.
        raise ValueError(f"path={file}: cannot be read: {error}: remove it, or copy it again") from None
    if mode.startswith(("I", "F")):
        raise ValueError(f"path={file}: has more than 8 bits per pixel: convert it, for example by mogrify -depth 8")
    return size


def _pixels(file: Path, mode: str) -> np.ndarray:
    """Returns the decoded image, ``(H, W)`` or ``(H, W, C)``."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                opaque = not image.has_transparency_data or np.asarray(image.convert("RGBA"))[..., 3].min() == 255
                pixels = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow raises many types of errors on damaged files.
        raise ValueError(f"path={file}: is damaged: remove it, or copy it again ({error})") from None
    if not opaque:
        raise ValueError(f"path={file}: has transparent pixels: flatten it, by mogrify -background white -flatten")
    return pixels
