"""Fingerprints of data sets, which show a run whether its data have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sdegen.datasets.base import Dataset

BLOCKS, BLOCK = 1024, 4096
"""Number of blocks that are read from data on the disk, and size of a block in bytes."""


def fingerprint(dataset: Dataset, exact: bool) -> dict[str, Any]:
    """Returns a dictionary with the number of points, the shape of a point, the number of classes and a digest.

    The digest covers all bytes of the points and labels. If the points stay on the disk, it covers blocks spread evenly
    over the points. If ``exact`` is False, floating-point numbers are rounded to float32 first, because the last bits
    of computed data may differ between machines.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (dataset.x, dataset.held_out, dataset.y, dataset.held_out_y, dataset.c, dataset.held_out_c):
        if part is not None:
            part = part.float() if part.is_floating_point() and not exact else part
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            for piece in _bytes(part, dataset.mapped):
                digest.update(piece.data)
    points = sum(len(part) for part in (dataset.x, dataset.held_out) if part is not None)
    shape, classes = list(dataset.x.shape[1:]), dataset.classes
    return {"points": points, "shape": shape, "classes": classes, "digest": digest.hexdigest()}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns a text about the difference between two fingerprints; empty if the fingerprints are equal."""
    if (before.get("points"), before.get("shape")) != (now.get("points"), now.get("shape")):
        return f"{_size(now)} instead of {_size(before)}"
    if before.get("classes") != now.get("classes"):
        return f"{now.get('classes') or 'no'} classes instead of {before.get('classes') or 'none'}"
    return "" if before.get("digest") == now.get("digest") else "the same number of points, with other values"


def _size(known: Mapping[str, Any]) -> str:
    shape = " × ".join(map(str, known.get("shape") or ["?"]))
    return f"{known.get('points', '?')} points of {shape} numbers"


def _bytes(x: Tensor, mapped: bool) -> Iterator[np.ndarray]:
    """Yields all bytes of a tensor, or blocks spread evenly over the tensor if it is large and ``mapped``."""
    if mapped and not x.is_contiguous():
        # Take the axes in the order of the disk: a copy in another order would be read into memory as a whole.
        x = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    flat = np.ascontiguousarray(x.cpu().numpy()).reshape(-1).view(np.uint8)
    if not mapped or len(flat) <= BLOCKS * BLOCK:
        yield flat
        return
    for start in np.linspace(0, len(flat) - BLOCK, BLOCKS).astype(int):
        yield flat[start : start + BLOCK]
