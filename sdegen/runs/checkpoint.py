"""Checkpoints: plain data and tensors in one file, which is written whole or not at all."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen.config.trust import check_plain, check_size, plain
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.runs import files
from sdegen.runs.latest import resolve
from sdegen.runs.stored import FORMAT, is_checkpoint, stored

log = logging.getLogger("sdegen")

Which = int | Literal["last", "best"]
"""A step, the newest there is, or the one with the smallest loss on held-out points."""


class Checkpoint(NamedTuple):
    """All that is needed to resume a training, or to sample.

    Attributes:
        config: the resolved configuration of the run, plain data.
        step: steps taken.
        seconds: their time.
        weights: the network's ``state_dict``.
        ema: the ``state_dict`` of its moving average.
        optimizer: the optimiser's state.
        units: the state of the data's units: see :class:`sdegen.datasets.units.Units`.
        moments: of the data, if the parametrization takes them: see :class:`sdegen.models.moments.Moments`.
        data: the fingerprint of the data: see :func:`sdegen.datasets.fingerprint.fingerprint`.
        classes: the number of classes of the data; None where they have no labels.
        provenance: versions, commit and machine of the training.
        held_out: the loss of the average on held-out points; None if it was not measured.
        best: the smallest of these losses so far, this one included; infinity if there is none.
        history: losses and norms of the steps since the last scalars: see
            :meth:`sdegen.training.history.History.state`.
        stream: the number of the stream of noise that the following steps use: see
            :class:`sdegen.training.batches.Stream`.
    """

    config: dict[str, Any]
    step: int
    seconds: float
    weights: dict[str, Any]
    ema: dict[str, Any]
    optimizer: dict[str, Any]
    units: dict[str, Tensor]
    moments: dict[str, Tensor | None] | None
    data: dict[str, Any]
    classes: int | None
    provenance: dict[str, Any]
    held_out: float | None
    best: float
    history: dict[str, Tensor]
    stream: int


def save(checkpoint: Checkpoint, folder: Path, keep: int | None = None) -> Path:
    """Writes ``step-<step>.pt`` into a folder, links it as ``last.pt``, and as ``best.pt`` if it is the best so far.

    Each file appears whole or not at all, and older files are removed last.

    Args:
        checkpoint: the content.
        folder: for the file.
        keep: how many checkpoints to keep beside the best; None for all.
    """
    path = folder / f"step-{checkpoint.step:08d}.pt"
    files.replace(path, lambda temporary: _write(checkpoint, temporary))
    settle(checkpoint, folder, keep)
    return path


def settle(checkpoint: Checkpoint, folder: Path, keep: int | None = None) -> None:
    """Links the file of a checkpoint and removes older ones: the end of :func:`save`, also after it was killed."""
    path = folder / f"step-{checkpoint.step:08d}.pt"
    if not path.is_file():
        return
    if checkpoint.held_out is not None and checkpoint.held_out == checkpoint.best:
        files.replace(folder / "best.pt", lambda temporary: _link(path, temporary))
    files.replace(folder / "last.pt", lambda temporary: _link(path, temporary))
    for step in _steps(folder)[: -keep if keep else 0]:
        if step != checkpoint.step:
            (folder / f"step-{step:08d}.pt").unlink()


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of this program.
    """
    content = stored(path)
    if not is_checkpoint(content):
        raise UserError(f"{path}: not a checkpoint of sdegen (format {FORMAT})")
    fields = {name: value for name, value in content.items() if name != "format"}  # type: ignore[attr-defined]
    return Checkpoint(**fields)


def find(run: Path, which: Which = "last") -> Path:
    """Returns the path of a checkpoint in a run's folder.

    Raises:
        UserError: there is none.
    """
    run = resolve(run)
    if run.is_file():
        raise UserError(f"{run}: is a file: give the run's folder, and checkpoint=STEP for another than the last")
    if not run.is_dir():
        raise UserError(f"{run}: no such folder")
    folder = run / "checkpoints"
    name = f"step-{which:08d}.pt" if isinstance(which, int) else f"{which}.pt"
    if (folder / name).is_file():
        return folder / name
    steps = _steps(folder)
    if not steps:
        raise UserError(f"{run}: holds no checkpoint: train.py writes them into its folder checkpoints/")
    raise UserError(f"{run}: has no checkpoint {name}; choose checkpoint= from {', '.join(map(str, steps))}")


def read(run: Path, which: Which = "last") -> Checkpoint:
    """Reads a checkpoint of a run's folder.

    Raises:
        UserError: there is none, or it is damaged; then the message names the newest whole one.
    """
    path = find(run, which)
    try:
        return load(path)
    except UserError as error:
        others = [step for step in _steps(path.parent) if step != which]
        whole = next((step for step in reversed(others) if _is_whole(path.parent, step)), None)
        fix = "and no other is whole" if whole is None else f"the newest that is whole is checkpoint={whole}"
        raise UserError(f"{error}; {fix}") from None


def newest(run: Path, others: Sequence[Path] = ()) -> Checkpoint:
    """Reads the newest whole checkpoint of a run, of a step at which other runs have a whole one, too.

    Damaged ones are skipped with a warning.

    Raises:
        UserError: there is none.
    """
    folder = run / "checkpoints"
    # By their steps first: a process may have been killed before it linked the newest as last.pt.
    names = [*(f"step-{step:08d}.pt" for step in reversed(_steps(folder))), "last.pt"]
    for path in [folder / name for name in names if (folder / name).is_file()] or [find(run)]:
        try:
            found = load(path)
            for other in others:
                load(other / "checkpoints" / f"step-{found.step:08d}.pt")
        except UserError as error:
            log.warning(f"{error}; skipped")
        else:
            return found
    raise UserError(f"{run}: holds no whole checkpoint: begin again, in another folder")


def _steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, ascending."""
    found = (re.fullmatch(r"step-(\d+)\.pt", file.name) for file in folder.glob("step-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def _is_whole(folder: Path, step: int) -> bool:
    try:
        load(folder / f"step-{step:08d}.pt")
    except UserError:
        return False
    return True


def _write(checkpoint: Checkpoint, path: Path) -> None:
    torch.save({"format": FORMAT, **checkpoint._asdict()}, path)


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def examine(folder: Path, saved: Checkpoint, trust: Trust) -> None:
    """Checks a run that may be a stranger's, before anything is built from it or written into its folder.

    Args:
        folder: the run's own folder.
        saved: its checkpoint.
        trust: modules whose classes the configuration may name, beside the package's own.

    Raises:
        UserError: the folder holds links, the configuration is not plain, or the network is larger than its weights.
    """
    if link := next((inner for inner in folder.rglob("*") if inner.is_symlink()), None):
        raise UserError(
            f"{link}: is a link, through which files outside of the run could be written: replace it by a copy"
        )
    plain(saved.config)
    check_plain("provenance", saved.provenance)
    check_plain("data", saved.data)
    for name, value in (*saved.weights.items(), *saved.ema.items()):
        if not isinstance(value, Tensor):
            check_plain(name, value)
    check_size(saved.config, saved.weights, trust, saved.units, saved.classes)
