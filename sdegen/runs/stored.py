"""Reads what torch has saved without running any of it, and checks that it is a checkpoint."""

from __future__ import annotations

import re
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.datasets import units
from sdegen.models.moments import Moments
from sdegen.training.history import BINS

FORMAT = 5
"""The number of the format of checkpoints."""
MOST_CLASSES = 2**20
EXTRA = "_extra_state"
"""The end of a ``state_dict``'s names for what a module keeps beside tensors."""


def stored(path: Path) -> object:
    """Returns the tensors and plain data that torch has saved in a file, on the CPU.

    Nothing else is read (``weights_only``), and nothing before the checksums of the file are verified: torch itself
    loads a file with flipped bits silently.

    Raises:
        UserError: there is no such file, or it is damaged, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch compresses nothing: a compressed file could be a bomb, and is not read.
            if any(member.compress_type or re.search(r"^/|\\|\.\.", member.filename) for member in members):
                raise ValueError("it holds a compressed file, or one with a path outside of it")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("it claims to hold more than it has bytes")
            damaged = archive.testzip()
    except Exception as error:
        # zipfile raises a dozen kinds of exceptions for damaged files.
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UserError(f"{path}: not a whole checkpoint ({reason})") from None
    if damaged:
        raise UserError(f"{path}: damaged, the checksum of {damaged} is wrong")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # weights_only refuses foreign objects with several kinds of exceptions and long texts.
        raise UserError(
            f"{path}: refused: it holds more than tensors and plain data ({type(error).__name__})"
        ) from None


def is_checkpoint(content: object) -> bool:
    """Returns True if the content of a file has the fields of a checkpoint, in their types."""
    if not isinstance(content, dict):
        return False
    types: dict[str, Any] = {"format": int, "config": dict, "step": int, "seconds": float, "weights": dict, "ema": dict}
    types |= {"optimizer": dict, "units": dict, "moments": dict | None, "data": dict, "classes": int | None}
    types |= {"provenance": dict, "held_out": float | None, "best": float, "history": dict, "stream": int}
    if content.keys() != types.keys() or not all(isinstance(content[key], kind) for key, kind in types.items()):
        return False
    named = [*content["weights"].items(), *content["ema"].items()]
    if not all(isinstance(name, str) and (_is_stored(value) or name.endswith(EXTRA)) for name, value in named):
        return False
    classes = content["classes"]
    sound = all(map(_is_stored, content["units"].values())) and units.is_sound(content["units"])
    counted = content["step"] >= 0 <= content["stream"] and (classes is None or 0 < classes < MOST_CLASSES)
    if sound and content["moments"] is not None:
        sound = _are_moments(content["moments"], units.restored(content["units"]).shape)
    return content["format"] == FORMAT and counted and sound and _is_history(content["history"], content["step"])


def _are_moments(content: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Returns True if the content is that of moments of points of a shape."""
    if content.keys() != set(Moments._fields):
        return False
    mean, axes, variances = (content[name] for name in Moments._fields)
    tensors = [mean, variances, *([] if axes is None else [axes])]
    if not all(_is_stored(x) and x.is_floating_point() and bool(x.isfinite().all()) for x in tensors):
        return False
    if axes is None:
        fits = mean.shape == () and variances.shape == (1,)
    else:
        fits = len(shape) == 1 and mean.shape == variances.shape == shape
        fits = fits and axes.ndim == 2 and len(axes) == len(mean) >= axes.shape[1]
    return fits and bool((variances >= 0).all())


def _is_history(content: dict[str, Any], step: int) -> bool:
    """Returns True if :meth:`sdegen.training.history.History.restore` can take the content."""
    if content.keys() != {"losses", "norms", "by_t"} or not all(map(_is_stored, content.values())):
        return False
    losses, norms, by_t = (content[name] for name in ("losses", "norms", "by_t"))
    fits = losses.shape == norms.shape and losses.ndim == 1 and len(losses) <= step and by_t.shape == (2, BINS)
    return fits and all(value.is_floating_point() for value in content.values())


def _is_stored(value: object) -> bool:
    """Returns True if a value is a tensor that has each of its numbers in the file, once."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.nbytes <= value.untyped_storage().nbytes()
