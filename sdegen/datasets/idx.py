"""Images in the IDX format, such as MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from sdegen.datasets.base import Dataset
from sdegen.datasets.checks import check_memory, check_size, prefixed
from sdegen.datasets.units import Affine

FASHION_MNIST = "/usr/share/datasets/fashion-mnist"
"""Folder of the Debian package ``dataset-fashion-mnist``."""
BYTES = 8
"""Code of the IDX format for unsigned bytes."""
DENSEST = 1032
"""Largest number of bytes that one byte of a deflate stream can expand to."""
BLOCK = 2**24


class IDX(Dataset):
    """Grey images with 256 levels and classes, 1 × H × W, from a folder of four files in the IDX format.

    The files are ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``. For the held-out images, ``t10k``
    replaces ``train`` in the names. Each file may be compressed by gzip, with the ending ``.gz``. The network's units
    are x/127.5 - 1, from -1 to 1.

    Reference: Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, https://arxiv.org/abs/1708.07747

    Args:
        path: path of the folder.
        size: number of training images, from the start of the file; None for all images.
        dequantize: see :class:`Dataset`.
    """

    LEVELS = 256

    def __init__(self, path: str = FASHION_MNIST, size: int | None = None, dequantize: bool = True) -> None:
        folder = Path(path)
        if not os.path.isdir(folder):
            raise ValueError(
                f"path={path}: no such folder: apt install dataset-fashion-mnist, or set dataset.path= to a folder "
                f"of IDX files"
            )
        (x, y), (held_out, held_out_y) = _pair(folder, "train"), _pair(folder, "t10k")
        if held_out.shape[1:] != x.shape[1:]:
            sizes = [_words(images.shape[2:]) for images in (x, held_out)]
            raise ValueError(
                f"path={path}: the train images are {sizes[0]}, but the t10k images are {sizes[1]}: use one size"
            )
        with prefixed(f"path={path}: "):
            classes = _count_classes(torch.cat([y, held_out_y]))
        if size is not None and check_size(size) > len(x):
            raise ValueError(
                f"size={size}: there are only {len(x)} training images: give at most {len(x)}, or size=null"
            )
        super().__init__(
            x[:size],
            held_out,
            levels=self.LEVELS,
            units=Affine.of_levels(self.LEVELS, tuple(x.shape[1:])),
            y=y[:size],
            held_out_y=held_out_y,
            classes=classes,
            dequantize=dequantize,
        )


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Reads the array of an IDX file, uint8, which must have ``dimensions`` dimensions.

    A file whose name ends in ``.gz`` is decompressed. If the header says more bytes than the file can hold, no memory
    is allocated.

    Raises:
        ValueError: the file cannot be read; the message says why.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(file, dimensions)
            promised, size = math.prod(shape), os.path.getsize(path)
            if promised > size * (DENSEST if path.suffix == ".gz" else 1):
                raise ValueError(
                    f"its header says {_words(shape)} bytes, more than a file of {size} bytes can hold: copy it again"
                )
            if not promised:
                raise ValueError(f"is empty: its header says {_words(shape)} bytes: use another file")
            check_memory(promised)
            values = _read(file, promised + 1)
        if len(values) != promised:
            found = "more" if len(values) > promised else f"only {len(values)}"
            raise ValueError(f"its header says {_words(shape)} bytes, but the file has {found}: copy the file again")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"path={path}: not a valid IDX file: {error}") from None
    return torch.frombuffer(values, dtype=torch.uint8).view(shape)


def _pair(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Reads the images ``(N, 1, H, W)`` and the labels ``(N,)`` int64 of the files ``train-…`` or ``t10k-…``."""
    files = [_found(folder, f"{part}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")]
    x, y = (read_idx(path, dimensions) for path, dimensions in zip(files, (3, 1), strict=True))
    if len(x) != len(y):
        raise ValueError(
            f"path={files[1]}: holds {len(y)} labels, but {files[0].name} holds {len(x)} images: copy both again"
        )
    return x[:, None], y.long()


def _found(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"path={folder}: has neither a file {name} nor {name}.gz: copy one of them there")


def _shape(file: io.BufferedIOBase, dimensions: int) -> tuple[int, ...]:
    """Reads the header: two zero bytes, the type of the numbers, the number of dimensions, four bytes for each size."""
    head = bytes(_read(file, 4 + 4 * dimensions))
    if head[:2] != b"\0\0" or len(head) < 4:
        raise ValueError(
            f"begins with {head[:4].hex(' ') or 'nothing'} instead of 00 00 08 {dimensions:02x}: copy it again"
        )
    if head[2] != BYTES:
        raise ValueError(
            f"holds numbers of type {head[2]}; only unsigned bytes (type {BYTES}) are supported: convert it"
        )
    if head[3] != dimensions:
        raise ValueError(f"has {head[3]} dimensions instead of {dimensions}: check the file names")
    if len(head) < 4 + 4 * dimensions:
        raise ValueError("ends within its header: copy it again")
    return struct.unpack(f">{dimensions}I", head[4:])


def _read(file: io.BufferedIOBase, count: int) -> bytearray:
    """Reads at most ``count`` bytes, and allocates no more memory than the decompressed file needs."""
    values = bytearray()
    while len(values) < count and (block := file.read(min(BLOCK, count - len(values)))):
        values += block
    return values


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _count_classes(y: Tensor) -> int:
    """Returns the number of classes in the labels ``y`` ``(N,)``; raises ValueError if the labels have gaps."""
    found = y.unique()
    if not torch.equal(found, torch.arange(len(found))):
        raise ValueError(
            f"the labels of {len(found)} classes range from {int(found[0])} to {int(found[-1])}: number the classes "
            f"from 0 to {len(found) - 1}"
        )
    return len(found)
