"""Points or images from a file."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, Standardize, check_memory, check_share, chunks, count_classes, prefixed

log = logging.getLogger(__name__)

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Functions that read the header, by the version of NumPy's format."""
TEXT = 32
"""Number of bytes of memory needed to read one byte of text."""
LONGEST = 300
"""Largest number of characters quoted from the error message of another library."""


class File(Dataset):
    """Points ``(N,)`` or ``(N, d)``, or images ``(N, C, H, W)``, from a ``.npy``, ``.npz`` or ``.csv`` file.

    A ``.csv`` file may begin with a line of names. An ``.npz`` file holds a single array, or an array ``x`` of points
    and, if the points have classes, an array ``y`` of N integers from 0.

    Images in a ``.npy`` file larger than :attr:`MAPPED` stay on the disk, and the last images of the file are held out.
    In all other cases, the held-out points are drawn at random.

    Args:
        seed: seed of the choice of held-out points; from the run.
        path: path of the file.
        held_out: share of the points that are used only for metrics, not for training; between 0 and 1.
        standardize: see :class:`Dataset`; samples are returned in the units of the file.
        levels: number of values that an entry of quantised points can have, from 0 to ``levels - 1``; null if the
            points are not quantised.
        dequantize: see :class:`Dataset`.
    """

    MAPPED = 256 * 2**20
    """Size in bytes above which a file of images stays on the disk."""

    def __init__(
        self,
        seed: int,
        path: str,
        held_out: float = 0.2,
        standardize: Standardize = True,
        levels: int | None = None,
        dequantize: bool = False,
    ) -> None:
        check_share(held_out)
        x, y, mapped = read(Path(path), self.MAPPED)
        classes = None if y is None else count_classes(y)
        if all(bool((part == x[0]).all()) for part in chunks(x)):
            raise ValueError(
                f"path={path}: all {len(x)} points are equal, so there is nothing to learn: give points that differ"
            )
        kept = min(max(1, round(held_out * len(x))), len(x) - 2)
        order = torch.randperm(len(x), generator=generator("cpu", seed, "data"))
        train, test = order[kept:], order[:kept]
        if mapped:
            log.info(
                "%s stays on the disk, and its last %d images are held out: if the file is sorted, shuffle it",
                path,
                kept,
            )
        super().__init__(
            # A random choice would copy the points into memory.
            x[:-kept] if mapped else x[train],
            x[-kept:] if mapped else x[test],
            standardize=standardize,
            levels=levels,
            y=None if y is None else y[train],
            held_out_y=None if y is None else y[test],
            classes=classes,
            dequantize=dequantize,
            mapped=mapped,
        )


class Contents(NamedTuple):
    """Contents of a file.

    Attributes:
        x: points ``(N, d)`` float64, or images ``(N, C, H, W)``. Images keep the number type of the file if a number
            takes less than 8 bytes or the file stays on the disk; else they are float64.
        y: classes of the points, ``(N,)`` int64; None if there are no classes.
        mapped: True if the points stay on the disk.
    """

    x: Tensor
    y: Tensor | None
    mapped: bool


def read(path: Path, largest: float = math.inf) -> Contents:
    """Reads the points of a file; raises ValueError with the reason if this fails.

    A ``.npy`` file of images with more than ``largest`` bytes stays on the disk.
    """
    with prefixed(f"path={path}: "):
        if not os.path.isfile(path):
            raise ValueError(
                f"{'is a folder, not a' if os.path.isdir(path) else 'no such'} file: give a .npy, .npz or .csv file"
            )
        readers = {".npy": _read_npy, ".npz": _read_npy, ".csv": _read_csv}
        if path.suffix.lower() not in readers:
            raise ValueError("must end in .npy, .npz or .csv: convert or rename the file")
        values, labels = readers[path.suffix.lower()](path, path.stat().st_size > largest)
        if not (np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
            raise ValueError(f"holds {values.dtype}, not real numbers: convert the values")
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim not in (2, 4) or 0 in values.shape[1:]:
            raise ValueError(f"shape {values.shape} is neither (N,), (N, d) nor (N, C, H, W): reshape the array")
        if len(values) < 3:
            raise ValueError(f"holds {len(values)} points, but training needs at least 3: add points")
        mapped = values.ndim == 4 and isinstance(values, np.memmap)
        x = _tensor(values, mapped)
        if x.is_floating_point():
            _check_finite(x)
        return Contents(x, None if labels is None else _classes(labels, len(x)), mapped)


def _tensor(values: np.ndarray, mapped: bool) -> Tensor:
    """Returns the points in the form of :class:`Contents`."""
    if values.ndim == 4 and (mapped or values.itemsize < 8):
        try:
            return torch.from_numpy(values)
        except (TypeError, ValueError):
            # Numbers of a type that torch does not have, such as another byte order, must be copied.
            if mapped:
                raise ValueError(f"too large to be read as {values.dtype.str}: save it as uint8 or float32") from None
    with prefixed("in float64 "):
        check_memory(8 * values.size)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _check_finite(x: Tensor) -> None:
    good = torch.cat([part.flatten(1).isfinite().all(1) for part in chunks(x)])
    bad = torch.nonzero(~good).flatten()
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(x)} points hold NaN or infinity, the first is number {int(bad[0]) + 1}: remove or "
            f"fill them"
        )


def _classes(labels: np.ndarray, count: int) -> Tensor:
    """Returns the labels as ``(count,)`` int64, or raises ValueError if they are not classes."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise ValueError(
            f"y must be {count} integers, a class for each point, not {labels.dtype} of shape {labels.shape}: if y "
            f"does not hold classes, rename it"
        )
    y = torch.from_numpy(labels.astype(np.int64))
    with prefixed("y: "):
        count_classes(y)
    return y


def _read_npy(path: Path, large: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the points, which stay on the disk if they are ``large``, and the labels."""
    try:
        if not zipfile.is_zipfile(path):
            # Mapping checks the size of the file against its header before it reads anything. Mode "c" (copy on write)
            # provides the writable memory that torch needs, and leaves the file unchanged.
            mapped = np.load(path, mmap_mode="c", allow_pickle=False)
            return (mapped if large else np.array(mapped)), None
        with np.load(path, allow_pickle=False) as archive:
            name = "x" if "x" in archive.files else archive.files[0] if len(archive.files) == 1 else None
            if name is None:
                raise ValueError(f"holds the arrays {', '.join(archive.files) or '(none)'}: name one of them x")
            return _member(archive, name), _member(archive, "y") if name == "x" and "y" in archive.files else None
    except Exception as error:  # NumPy and zipfile raise many types of errors on damaged files.
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
        raise ValueError(f"not a readable array file: {reason}") from None


def _member(archive: NpzFile, name: str) -> np.ndarray:
    """Reads an array of an ``.npz`` file, after its size is compared with the header and with the memory."""
    assert archive.zip is not None
    info = archive.zip.getinfo(f"{name}.npy")
    check_memory(info.file_size)
    with archive.zip.open(info) as file:
        shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
        promised, found = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if promised != found:
            raise ValueError(
                f"the header of {name} says {promised} bytes, but the file holds {found}: save the file again"
            )
    return archive[name]


def _read_csv(path: Path, large: bool) -> tuple[np.ndarray, None]:
    check_memory(TEXT * path.stat().st_size)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if any(map(str.strip, row))]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"not a text file of comma-separated numbers: {error}: save it in UTF-8") from None
    if rows and not any(map(_is_number, rows[0][1])):
        rows = rows[1:]
    if not rows:
        raise ValueError("holds no line of numbers: write each point as a line")
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise ValueError(
                f"line {number} has {len(row)} values, but the first has {width}: correct or remove the line"
            )
        for value in row:
            if not _is_number(value):
                hint = ", and separate values by commas" if any(map(_is_number, re.split(r"[;\t ]", value))) else ""
                raise ValueError(f"line {number}: {textwrap.shorten(value, 40)!r} is not a number: correct it{hint}")
    return np.array([[float(value) for value in row] for _, row in rows]), None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
