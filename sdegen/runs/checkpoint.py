"""Checkpoints: plain data and tensors in one file. It is written completely or not at all, and read without trust."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin, get_type_hints

import torch
from torch import Tensor

from sdegen.config.trust import check_plain, check_size, plain
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust, members
from sdegen.datasets import restored_conditions, units
from sdegen.datasets.conditions import are_conditions
from sdegen.models.moments import Moments, are_moments, restored
from sdegen.runs import files
from sdegen.runs.content import are_averages, are_names, is_history, is_stored
from sdegen.training.learning import is_sound

log = logging.getLogger("sdegen")

FORMAT = 10
"""Number of the file format."""
MOST_CLASSES = 2**20
EXTRA = "_extra_state"
"""Suffix of names in a ``state_dict`` whose values may be something else than tensors."""

Which = int | Literal["last", "best"]
"""Checkpoint of a run: a step, ``last`` for the newest, or ``best`` for the smallest loss on held-out points."""


class Checkpoint(NamedTuple):
    """State of a training, which is enough to resume the training and to draw samples.

    Attributes:
        config: resolved configuration of the run, plain data.
        step: number of steps taken.
        seconds: duration of these steps.
        weights: ``state_dict`` of the network.
        ema: ``state_dict`` of the network with averaged weights.
        optimizer: state of the optimiser.
        units: state of the units of the data: see :class:`sdegen.datasets.units.Units`.
        moments: state of :class:`sdegen.models.moments.Moments`; None if the parametrization takes no moments.
        data: fingerprint of the data: see :func:`sdegen.datasets.fingerprint.fingerprint`.
        classes: number of classes of the data; None if the data have no labels.
        conditions: state of :class:`sdegen.datasets.Conditions`; None if the data have no conditions.
        names: names of the columns, of the classes and of the conditions, as in :class:`sdegen.datasets.Description`.
        provenance: versions, commit and machine of the training.
        held_out: loss of the averaged network on held-out points; None if this loss was not computed.
        best: smallest value of ``held_out`` in this and all earlier checkpoints; infinity without values.
        history: losses and gradient norms of the steps after the last written scalars: see
            :meth:`sdegen.training.history.History.state`.
        curve: held-out losses so far: see :meth:`sdegen.training.learning.Curve.state`.
        stream: number of the variant of the noise: see :class:`sdegen.training.batches.Stream`.
        weighting: learned factor of the weighting: see :meth:`sdegen.training.weighting.Learned.state`; often empty.
        averages: ``state_dict`` of the network with the average of each width in ``trainer.widths``, by width.
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
    conditions: dict[str, Tensor] | None
    names: dict[str, list[str]]
    provenance: dict[str, Any]
    held_out: float | None
    best: float
    history: dict[str, Tensor]
    curve: dict[str, Tensor]
    stream: int
    weighting: dict[str, Tensor]
    averages: dict[float, dict[str, Any]]

    def supplied(self) -> dict[str, Any]:
        """Returns the arguments that the data supply to the network."""
        conditions = restored_conditions(self.conditions)
        shape = None if conditions is None else conditions.shape
        return {"shape": units.restored(self.units).shape, "classes": self.classes, "condition_shape": shape}

    def known_moments(self) -> Moments | None:
        """Returns the moments of the training data; None if the parametrization takes no moments."""
        return None if self.moments is None else restored(self.moments)


def save(checkpoint: Checkpoint, folder: Path, keep: int | None = None, regular: bool = True) -> Path:
    """Writes ``step-<step>.pt`` into a folder, completely or not at all; then see :func:`settle`."""
    path = _path(folder, checkpoint.step)
    files.replace(path, lambda temporary: torch.save({"format": FORMAT, **checkpoint._asdict()}, temporary))
    settle(checkpoint, folder, keep, regular)
    return path


def settle(checkpoint: Checkpoint, folder: Path, keep: int | None = None, regular: bool = True) -> None:
    """Links ``last.pt`` to the file of a checkpoint, and ``best.pt`` if it is the best; removes older files.

    All files are removed except that of the checkpoint and the newest ``keep``; if ``keep`` is None, none is removed.
    Checkpoints that only an interruption caused do not count: a resumed run keeps the same files as an uninterrupted
    one. ``regular`` is False if ``checkpoint`` is such a checkpoint. :func:`save` calls this, and a resumed run again.
    """
    path = _path(folder, checkpoint.step)
    if not path.is_file():
        return
    best = checkpoint.held_out is not None and checkpoint.held_out == checkpoint.best
    for name in ("best.pt", "last.pt") if best else ("last.pt",):
        files.replace(folder / name, lambda temporary: _link(path, temporary))
    if keep is None:
        return
    steps, every = _steps(folder), checkpoint.config["trainer"]["checkpoint_every"]
    found = checkpoint.provenance.get("resumed")
    resumed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    # A run that was resumed with other options, such as more steps, may have been finished.
    interrupted = [one.get("step") for one in resumed if not one.get("options")]
    interrupted += [] if regular else [checkpoint.step]
    counted = [step for step in steps if step % every == 0 or step not in interrupted]
    for step in {*steps} - {checkpoint.step, *counted[-keep:]}:
        _path(folder, step).unlink()


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU; raises UserError if it is missing, damaged, or not a checkpoint of sdegen."""
    content = files.stored(path)
    if not isinstance(content, dict) or not _is_checkpoint(content):
        raise UserError(f"{path}: not a checkpoint of sdegen (format {FORMAT})")
    return Checkpoint(**{name: value for name, value in content.items() if name != "format"})


def find(run: Path, which: Which = "last") -> Path:
    """Returns the path of a checkpoint in a run's folder; raises UserError if there is none."""
    run = files.resolve(run)
    if run.is_file():
        raise UserError(f"{run}: is a file: give the run's folder, and checkpoint=STEP for one of its checkpoints")
    if not run.is_dir():
        raise UserError(f"{run}: no such folder: give the folder of a run")
    folder = run / "checkpoints"
    path = _path(folder, which) if isinstance(which, int) else folder / f"{which}.pt"
    if path.is_file():
        return path
    if not (steps := _steps(folder)):
        raise UserError(f"{run}: holds no checkpoint: give the folder of a run, with checkpoints/ inside")
    raise UserError(f"{run}: has no checkpoint {path.name}; choose checkpoint= from {', '.join(map(str, steps))}")


def has(run: Path, step: int) -> bool:
    """Returns True if a run's folder has the checkpoint of a step."""
    return _path(run / "checkpoints", step).is_file()


def read(run: Path, which: Which = "last") -> Checkpoint:
    """Reads a checkpoint from a run's folder.

    Raises:
        UserError: the checkpoint is missing or damaged; if damaged, the message names the newest whole checkpoint.
    """
    path = find(run, which)
    try:
        return load(path)
    except UserError as error:
        others = (step for step in reversed(_steps(path.parent)) if step != which and _is_whole(path.parent, step))
        whole = next(others, None)
        fix = "no other is whole, train again" if whole is None else f"use checkpoint={whole}, the newest whole one"
        raise UserError(f"{error}: {fix}") from None


def newest(run: Path, others: Sequence[Path] = ()) -> list[Checkpoint]:
    """Reads the checkpoints of ``run`` and of ``others`` at the newest step at which all these checkpoints are whole.

    Damaged checkpoints are skipped with a warning. Raises UserError if no step remains.
    """
    folder = run / "checkpoints"
    # Try the steps before last.pt: a process may have been killed before it linked last.pt to the newest checkpoint.
    paths = [*(_path(folder, step) for step in reversed(_steps(folder))), folder / "last.pt"]
    for path in [path for path in paths if path.is_file()] or [find(run)]:
        try:
            first = load(path)
            return [first, *(load(_path(other / "checkpoints", first.step)) for other in others)]
        except UserError as error:
            log.warning(f"{error}; skipped")
    raise UserError(f"{run}: holds no whole checkpoint: start again in another folder")


def examine(folder: Path, saved: Checkpoint, trust: Trust) -> None:
    """Checks a run, which may come from a stranger, before the run is built or its folder is changed.

    Raises:
        UserError: the folder contains links, the checkpoint contains more than tensors and plain data, or the network
            of the configuration is larger than the weights.
    """
    if link := next((inner for inner in folder.rglob("*") if inner.is_symlink()), None):
        raise UserError(
            f"{link}: is a link, through which files outside of the run could be written: replace it by a copy"
        )
    plain(saved.config)
    check_plain("provenance", saved.provenance)
    check_plain("data", saved.data)
    check_plain("names", saved.names)
    for state in (saved.weights, saved.ema, *saved.averages.values()):
        for name, value in state.items():
            if not isinstance(value, Tensor):
                check_plain(name, value)
    check_size(saved.config, saved.weights, trust, **saved.supplied())


def _is_checkpoint(content: dict[str, Any]) -> bool:
    hints = {"format": int, **get_type_hints(Checkpoint)}
    kinds = {name: tuple(get_origin(part) or part for part in members(hint)) for name, hint in hints.items()}
    if content.keys() != kinds.keys() or not all(isinstance(content[name], kind) for name, kind in kinds.items()):
        return False
    named = [*content["weights"].items(), *content["ema"].items()]
    if not all(isinstance(name, str) and (is_stored(value) or name.endswith(EXTRA)) for name, value in named):
        return False
    if not are_averages(content["averages"], content["ema"]):
        return False
    classes = content["classes"]
    sound = all(map(is_stored, content["units"].values())) and units.is_sound(content["units"])
    counted = content["step"] >= 0 <= content["stream"] and (classes is None or 0 < classes < MOST_CLASSES)
    shape = units.restored(content["units"]).shape if sound else ()
    if sound and (conditions := content["conditions"]) is not None:
        sound = all(map(is_stored, conditions.values())) and are_conditions(conditions)
    if sound and (moments := content["moments"]) is not None:
        sound = all(value is None or is_stored(value) for value in moments.values())
        sound = sound and are_moments(moments, shape, None if conditions is None else tuple(conditions["shift"].shape))
    sound = sound and are_names(content["names"], shape, classes, content["conditions"])
    sound = sound and all(map(is_stored, content["curve"].values())) and is_sound(content["curve"], content["step"])
    sound = sound and all(map(is_stored, content["weighting"].values()))
    return content["format"] == FORMAT and counted and sound and is_history(content["history"], content["step"])


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def _steps(folder: Path) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)\.pt", file.name) for file in folder.glob("step-*.pt"))
    return sorted(int(match[1]) for match in found if match)


def _is_whole(folder: Path, step: int) -> bool:
    try:
        load(_path(folder, step))
    except UserError:
        return False
    return True


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:
        # Some file systems have no links.
        shutil.copyfile(source, path)
