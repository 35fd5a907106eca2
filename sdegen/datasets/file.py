"""The user's own points or images."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
import textwrap
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets.base import Dataset, check_memory, check_share, chunks, count_classes

log = logging.getLogger(__name__)

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Function that reads the header, for each version of NumPy's format."""
TEXT = 32
"""Bytes of memory needed to read a byte of text."""
LONGEST = 300
"""Largest number of characters quoted from another program's error."""


class File(Dataset):
    """Points ``(N,)`` or ``(N, d)``, or images ``(N, C, H, W)``, from a ``.npy``, ``.npz`` or ``.csv`` file.

    A ``.csv`` may begin with a line of names. An ``.npz`` holds a single array, or one named ``x`` and, if the points
    have classes, one named ``y``: N integers from 0.

    Images in a ``.npy`` file larger than :attr:`MAPPED` stay on the disk, and the end of the file is held out.
    Otherwise the held-out points are drawn at random.

    Args:
        seed: supplied by the experiment.
        path: the file.
        held_out: share of the points kept from training, for measuring; between 0 and 1.
        standardize: see :class:`Dataset`; samples are returned in the units of the file.
        levels: the number of values, if they are quantised as in images; see :class:`Dataset`.
        dequantize: see :class:`Dataset`.
    """

    MAPPED = 256 * 2**20
    """Size in bytes above which a file of images stays on the disk."""

    def __init__(
        self,
        seed: int,
        path: str,
        held_out: float = 0.2,
        standardize: bool | Literal["robust", "quantile"] = True,
        levels: int | None = None,
        dequantize: bool = False,
    ) -> None:
        check_share(held_out)
        x, y, mapped = read(Path(path), self.MAPPED)
        kept = min(max(1, round(held_out * len(x))), len(x) - 2)
        order = torch.randperm(len(x), generator=generator("cpu", seed, "data"))
        if mapped:
            # A random choice of points would copy them into memory.
            log.info("%s stays on the disk; its last %d images are held out: if it is sorted, shuffle it", path, kept)
            train, test = x[:-kept], x[-kept:]
        else:
            train, test = x[order[kept:]], x[order[:kept]]
        super().__init__(
            train,
            test,
            standardize=standardize,
            levels=levels,
            y=None if y is None else y[order[kept:]],
            held_out_y=None if y is None else y[order[:kept]],
            classes=None if y is None else count_classes(y),
            dequantize=dequantize,
            mapped=mapped,
        )


class Contents(NamedTuple):
    """The contents of a file.

    Attributes:
        x: points ``(N, d)`` float64, or images ``(N, C, H, W)``, which keep their type if it is shorter.
        y: their classes, ``(N,)`` int64, if there are any.
        mapped: True if the points stay on the disk.
    """

    x: Tensor
    y: Tensor | None
    mapped: bool


def read(path: Path, largest: float = math.inf) -> Contents:
    """Reads the points of a file; raises ValueError with the reason if it cannot.

    Args:
        path: the file.
        largest: largest size in bytes of a file whose images are read into memory.
    """
    if not os.path.isfile(path):
        raise ValueError(f"path={path}: {'is a folder, not a' if os.path.isdir(path) else 'no such'} file")
    readers = {".npy": _read_npy, ".npz": _read_npy, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"path={path}: must end in .npy, .npz or .csv")
    values, labels = readers[path.suffix.lower()](path, path.stat().st_size > largest)
    if not (np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
        raise ValueError(f"path={path}: holds {values.dtype}, not real numbers")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 4) or 0 in values.shape[1:]:
        raise ValueError(f"path={path}: shape {values.shape} is neither (N,), (N, d) nor (N, C, H, W)")
    if len(values) < 3:
        raise ValueError(f"path={path}: holds {len(values)} points, and training needs at least 3")
    mapped = values.ndim == 4 and isinstance(values, np.memmap)
    x = _tensor(path, values, mapped)
    if x.is_floating_point():
        _check_finite(path, x)
    return Contents(x, None if labels is None else _classes(path, labels, len(x)), mapped)


def _tensor(path: Path, values: np.ndarray, mapped: bool) -> Tensor:
    """Returns the points in the form of :class:`Contents`."""
    if values.ndim == 4 and (mapped or values.itemsize < 8):
        try:
            return torch.from_numpy(values)
        except (TypeError, ValueError):
            # Numbers of a type that torch does not have, such as another byte order, must be copied.
            if mapped:
                raise ValueError(
                    f"path={path}: too large to be read as {values.dtype.str}: save it as uint8 or float32"
                ) from None
    try:
        check_memory(8 * values.size)
    except ValueError as error:
        raise ValueError(f"path={path}: in float64 {error}") from None
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _check_finite(path: Path, x: Tensor) -> None:
    good = torch.cat([part.flatten(1).isfinite().all(1) for part in chunks(x)])
    bad = torch.nonzero(~good).flatten()
    if len(bad):
        raise ValueError(
            f"path={path}: {len(bad)} of {len(x)} points hold NaN or infinity, the first is number {int(bad[0]) + 1}: "
            f"remove or fill them"
        )


def _classes(path: Path, labels: np.ndarray, count: int) -> Tensor:
    """Returns labels as ``(count,)`` int64."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (count,):
        raise ValueError(
            f"path={path}: y must be {count} integers, a class for each point, not {labels.dtype} of shape "
            f"{labels.shape}: give it another name if it is something else"
        )
    y = torch.from_numpy(labels.astype(np.int64))
    try:
        count_classes(y)
    except ValueError as error:
        raise ValueError(f"path={path}: y: {error}") from None
    return y


def _read_npy(path: Path, large: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the points, mapped from the disk if they are large, and the labels."""
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
    except Exception as error:  # NumPy and zipfile raise nearly anything on damaged files.
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
        raise ValueError(f"path={path}: not a readable array file: {reason}") from None


def _member(archive: NpzFile, name: str) -> np.ndarray:
    """Reads an array of an ``.npz`` file after checking its size against the header and the memory."""
    assert archive.zip is not None
    info = archive.zip.getinfo(f"{name}.npy")
    check_memory(info.file_size)
    with archive.zip.open(info) as file:
        header = HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = header(file)
        promised = math.prod(shape) * dtype.itemsize
        if promised != info.file_size - file.tell():
            raise ValueError(f"{name} claims {promised} bytes, and the file holds {info.file_size - file.tell()}")
    return archive[name]


def _read_csv(path: Path, large: bool) -> tuple[np.ndarray, None]:
    try:
        check_memory(TEXT * path.stat().st_size)
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if any(map(str.strip, row))]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"path={path}: not a text file of comma-separated numbers: {error}") from None
    if rows and not any(map(_is_number, rows[0][1])):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"path={path}: holds no line of numbers")
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"path={path}: line {number} has {len(row)} values and the first has {width}")
        for value in row:
            if not _is_number(value):
                hint = "; separate values by commas" if any(map(_is_number, re.split(r"[;\t ]", value))) else ""
                shown = textwrap.shorten(value, 40)
                raise ValueError(f"path={path}: line {number}: {shown!r} is not a number{hint}")
    return np.array([[float(value) for value in row] for _, row in rows]), None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
