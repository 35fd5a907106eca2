"""The user's own points or images."""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdegen.datasets.base import Dataset
from sdegen.rng import generator


class File(Dataset):
    """Points ``(N,)`` or ``(N, d)``, or images ``(N, C, H, W)``, from a ``.npy``, ``.npz`` or ``.csv`` file.

    A ``.csv`` may begin with a line of names. An ``.npz`` holds one array, or one named ``x``.

    Args:
        seed: supplied by the experiment.
        path: the file.
        held_out: share of the points kept from training, for measuring; between 0 and 1.
        standardize: see :class:`Dataset`; samples are given back in the units of the file.
        levels: for quantised values, such as those of images, their number; see :class:`Dataset`.
    """

    def __init__(
        self, seed: int, path: str, held_out: float = 0.2, standardize: bool = True, levels: int | None = None
    ) -> None:
        if not 0 < held_out < 1:
            raise ValueError(f"held_out={held_out:g} must lie between 0 and 1: try held_out=0.2")
        values = read(Path(path))
        order = torch.randperm(len(values), generator=generator("cpu", seed, "data"))
        kept = min(max(1, round(held_out * len(values))), len(values) - 2)
        x = torch.from_numpy(values)[order]
        super().__init__(x[kept:], x[:kept], standardize=standardize, levels=levels)

    def draw(self, n: int, source: torch.Generator) -> Tensor | None:
        return None


def read(path: Path) -> np.ndarray:
    """The points of a file, float64, ``(N, d)`` or ``(N, C, H, W)``; ValueError says what is wrong with it."""
    if not path.is_file():
        raise ValueError(f"path={path}: {'is a folder, not a' if path.is_dir() else 'no such'} file")
    readers = {".npy": _read_npy, ".npz": _read_npy, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"path={path}: must end in .npy, .npz or .csv")
    values = readers[path.suffix.lower()](path)
    if not (np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
        raise ValueError(f"path={path}: holds {values.dtype}, not real numbers")
    values = np.ascontiguousarray(values, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 4) or 0 in values.shape[1:]:
        raise ValueError(f"path={path}: shape {values.shape} is neither (N,), (N, d) nor (N, C, H, W)")
    if len(values) < 3:
        raise ValueError(f"path={path}: holds {len(values)} points, and training needs at least 3")
    bad = np.nonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
    if len(bad):
        raise ValueError(
            f"path={path}: {len(bad)} of {len(values)} points hold NaN or infinity, the first is number {bad[0] + 1}: "
            f"remove or fill them"
        )
    return values


def _read_npy(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            name = "x" if "x" in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
            if name is None:
                raise ValueError(f"holds the arrays {', '.join(loaded.files) or '(none)'}: name one of them x")
            return loaded[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"path={path}: not a readable array file: {error}") from None


def _read_csv(path: Path) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines), start=1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"path={path}: not a text file of comma-separated numbers: {error}") from None
    if rows and not any(map(_is_number, rows[0][1])):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"path={path}: holds no line of numbers")
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"path={path}: line {number} has {len(row)} values where others have {width}")
        for value in row:
            if not _is_number(value):
                hint = "; separate values by commas" if any(map(_is_number, re.split(r"[;\t ]", value))) else ""
                raise ValueError(f"path={path}: line {number}: {value.strip()!r} is not a number{hint}")
    return np.array([[float(value) for value in row] for _, row in rows])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
