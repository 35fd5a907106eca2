"""Checkpoints: plain data and tensors in one file, written whole or not at all, read without running any of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.errors import UserError

FORMAT = 2


class Checkpoint(NamedTuple):
    """All that is needed to go on, or to sample.

    Attributes:
        config: the resolved configuration of the run, plain data.
        step: steps taken.
        seconds: time they took.
        weights: the network's state, by name.
        ema: the moving average of it, by name.
        optimizer: the optimiser's state.
        units: ``shift`` and ``scale`` of the data.
        classes: the number of classes of the data; None where they have no labels.
        provenance: versions, commit and machine of the training.
    """

    config: dict[str, Any]
    step: int
    seconds: float
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    units: dict[str, Tensor]
    classes: int | None
    provenance: dict[str, Any]


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``step-<step>.pt`` into a folder and let ``last.pt`` name it; both appear whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path, last = folder / f"step-{checkpoint.step:08d}.pt", folder / "last.pt"
    _replace(path, lambda temporary: _write(checkpoint, temporary))
    _replace(last, lambda temporary: _link(path, temporary))
    return path


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Only tensors and plain data are read (``weights_only``), and only after the checksums of the file hold: torch
    itself loads a file with flipped bits without a word.

    Raises:
        UserError: there is no such file, or it is damaged, or it is not a checkpoint of this program.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        # A damaged file makes zipfile raise a dozen different things.
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a whole checkpoint ({reason}): choose another with checkpoint=STEP") from None
    if damaged:
        raise UserError(f"{path}: damaged, the checksum of {damaged} is wrong: choose another with checkpoint=STEP")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # weights_only refuses foreign objects with several exception types, and long texts.
        raise UserError(
            f"{path}: refused: it holds more than tensors and plain data ({type(error).__name__})"
        ) from None
    if not (isinstance(content, dict) and content.pop("format", None) == FORMAT and _is_sound(content)):
        raise UserError(f"{path}: not a checkpoint of sdegen (format {FORMAT})")
    return Checkpoint(**content)


def find(run: Path, step: int | None = None) -> Path:
    """The checkpoint file of a run's folder: the last one, or that of a step.

    Raises:
        UserError: there is none.
    """
    run = resolve(run)
    if run.is_file():
        raise UserError(f"{run}: is a file: give the run's folder, and checkpoint=STEP for another than the last")
    if not run.is_dir():
        raise UserError(f"{run}: no such folder")
    folder = run / "checkpoints"
    name = "last.pt" if step is None else f"step-{step:08d}.pt"
    if (folder / name).is_file():
        return folder / name
    steps = sorted(
        int(found[1]) for file in folder.glob("step-*.pt") if (found := re.fullmatch(r"step-(\d+)", file.stem))
    )
    if not steps:
        raise UserError(f"{run}: holds no checkpoint: train.py writes them into its folder checkpoints/")
    raise UserError(f"{run}: has no checkpoint {name}; choose checkpoint= from {', '.join(map(str, steps))}")


def resolve(run: Path) -> Path:
    """The run's folder itself, where a path is ``latest``: a link to it, or a file that holds its name."""
    if run.is_symlink():
        return run.parent / run.readlink()
    return run.parent / run.read_text().strip() if run.name == "latest" and run.is_file() else run


def point_latest(run: Path) -> None:
    """Let ``latest`` beside a run's folder name it: a link, or a file where links are not to be had."""
    latest = run.parent / "latest"
    if latest.is_dir() and not latest.is_symlink():
        return

    def point(temporary: Path) -> None:
        try:
            temporary.symlink_to(run.name, target_is_directory=True)
        except OSError:
            temporary.write_text(run.name)

    _replace(latest, point)


def _is_sound(content: dict[str, Any]) -> bool:
    """Whether the content has the fields of a checkpoint, in their types."""
    types: dict[str, Any] = {"config": dict, "step": int, "seconds": float, "weights": dict, "ema": dict}
    types |= {"optimizer": dict, "units": dict, "classes": int | None, "provenance": dict}
    if content.keys() != types.keys() or not all(isinstance(content[key], kind) for key, kind in types.items()):
        return False
    tensors = [*content["weights"].values(), *content["ema"].values()]
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in tensors):
        return False
    units = content["units"]
    if units.keys() != {"shift", "scale"} or not all(isinstance(value, Tensor) for value in units.values()):
        return False
    shift, scale = units["shift"], units["scale"]
    finite = all(value.dtype == torch.float64 and bool(value.isfinite().all()) for value in (shift, scale))
    return content["step"] >= 0 and finite and shift.shape == scale.shape and bool((scale > 0).all())


def _write(checkpoint: Checkpoint, path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"format": FORMAT, **checkpoint._asdict()}, file)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _replace(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file under a temporary name, then rename it, so that ``path`` is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: could not be written: {error.strerror or error}") from None
    except RuntimeError as error:
        # torch tells a full disk as a RuntimeError without an errno.
        raise UserError(f"{path}: could not be written, is the disk full? ({str(error).splitlines()[0]})") from None
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
