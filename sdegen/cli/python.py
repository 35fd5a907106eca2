"""Commands as Python functions, which take the options of the command line and return a run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sdegen.cli.arguments import Arguments, read
from sdegen.cli.composition import Composition
from sdegen.cli.guard import user_errors
from sdegen.cli.train import resume
from sdegen.config.compose import CONF, Config
from sdegen.config.options import TRAIN
from sdegen.core import processes
from sdegen.core.checks import as_path, explained
from sdegen.core.errors import UserError
from sdegen.runs import files, session
from sdegen.runs.arrays import ArrayLike, Frame, columns_of, data
from sdegen.runs.run import Run

DATA = "data.npz"
"""File in a run's folder with the array that the run was trained on."""


@explained
@user_errors()
def train(*overrides: str, folder: str | Path | None = None, **options: Any) -> Run:  # noqa: ANN401
    """Train a run as ``sdegen train`` does, then write samples, metrics and figures into its folder.

    .. code-block:: python

        run = sdegen.train("experiment=smile", "trainer.steps=500")
        run = sdegen.train(dataset="moons", sde="ve", steps=500)
        run = sdegen.train("resume=outputs/smile/latest", "trainer.steps=1000")

    Args:
        overrides: options as on the command line.
        folder: the run's folder; None for ``outputs/<name>/<date and time>``.
        options: options as keyword arguments: a choice of a group (``sde="ve"``), or an option such as ``name``,
            ``seed`` or ``count``. Any other keyword is an option of the trainer (``steps=500``).

    Raises:
        UserError: an option is wrong, or the operating system reports an error, with the message of the command line.
    """
    arguments = _arguments(overrides)
    if arguments.values().get("resume") is not None:
        if folder is not None:
            raise UserError("folder: a resumed run stays in its own folder: leave out folder=")
        changes = {f"trainer.{key}": value for key, value in options.items()}
        return resume(arguments, overrides, _command("train", overrides, options), **changes)
    config = _config(arguments, options)
    return session.train(config, _folder(config, folder), command=_command("train", overrides, options))


@explained
@user_errors()
def fit(
    x: ArrayLike | Frame,
    y: ArrayLike | str | None = None,
    *overrides: str,
    c: ArrayLike | Frame | None = None,
    names: Sequence[str] | None = None,
    folder: str | Path | None = None,
    **options: Any,  # noqa: ANN401
) -> Run:
    """Train a run on an array or a data frame in memory.

    The array is saved as ``data.npz`` in the run's folder, so that the run can be resumed, evaluated and reloaded.

    .. code-block:: python

        run = sdegen.fit(x, steps=500)
        run = sdegen.fit(images, labels, "network=unet", "network.label_dropout=0.1")
        run = sdegen.fit(table, "dataset.labels=species", "dataset.drop=[id]")
        run = sdegen.fit(theta, c=observed)
        run = sdegen.fit(table, "dataset.condition=[temperature]")

    Args:
        x: points ``(N,)`` or ``(N, d)``, or images ``(N, C, H, W)``: a NumPy array, a tensor or lists; or a data frame
            of pandas or Polars, whose columns are the coordinates and keep their names.
        y: labels of the points, ``(N,)`` words, booleans or numbers; None for data without labels.
        overrides: see :func:`train`.
        c: condition of each point: numbers ``(N, k)`` or ``(N,)``, or images or signals ``(N, C, *)`` on the grid of
            the points, or a data frame, whose columns keep their names; None for data without conditions. Name columns
            of ``x`` with ``dataset.condition=[…]``.
        names: names of the coordinates of vectors; None for those of a data frame, or no names.
        folder: see :func:`train`.
        options: see :func:`train`.

    Raises:
        UserError: see :func:`train`; also if the array cannot be trained on.
    """
    _check_not_named(x)
    if isinstance(y, str):
        overrides, y = (y, *overrides), None
    arguments = _arguments(("dataset=file", "dataset.path=x", "name=array", *overrides))
    config = _config(arguments, options)
    arrays = data(x, y, names, c, config["dataset"].get("labels"))
    own = _folder(config, folder).absolute()
    if any((own / "checkpoints").glob("*.pt")):
        raise UserError(f"{own}: contains a run already: give another folder=")
    path = own / DATA

    def save(temporary: Path) -> None:
        # Open the file here, because NumPy would add a suffix to the name.
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    files.replace(path, save)
    config["dataset"]["path"] = str(path)
    config["dataset"]["condition"] = config["dataset"]["condition"] or columns_of(c) or []
    try:
        return session.train(config, own, command=_command("fit", overrides, options))
    except UserError as error:
        if not any((own / "checkpoints").glob("*.pt")):
            path.unlink()
            with contextlib.suppress(OSError):
                own.rmdir()
        # Name the argument x in the message, because the user does not know the file.
        message = str(error).replace(f"dataset.path={path}: ", "x: ")
        raise UserError(re.sub("^x: ([yc]: )", r"\1", message)) from error


def _check_not_named(x: object) -> None:
    """Raises UserError if ``x`` is an option or the path of a file, and not an array."""
    if isinstance(x, str) and "=" in x:
        raise UserError(f"x: {x!r} is an option, not points: give the points first, or use sdegen.train({x!r})")
    if isinstance(x, str | os.PathLike):
        path = f"dataset.path={os.fspath(x)}"
        raise UserError(
            f"x: {str(x)!r} is a path, not points: use sdegen.train('dataset=file', {path!r}), or read the file first"
        )


def _arguments(overrides: tuple[str, ...]) -> Arguments:
    if (size := processes.started()) > 1:
        raise UserError(
            f"torchrun: {size} processes would each train an own run: train in one process, or start "
            f"the command with torchrun -m sdegen train …"
        )
    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise UserError(f"{override!r}: not an option: give a string such as 'trainer.steps=500'")
    return read(overrides)


def _config(arguments: Arguments, options: dict[str, Any]) -> Config:
    """Returns the configuration of train.yaml, changed by overrides and by keyword arguments."""
    chosen = {key: value for key, value in options.items() if (CONF / key).is_dir()}
    arguments.overrides.extend(f"{group}={name}" for group, name in chosen.items())
    plan = Composition("train", arguments).plan()
    if plan.sweep is not None:
        raise UserError("hydra.mode=MULTIRUN: sweeps run on the command line only: use sdegen train sweep=…")
    ((_, config),) = plan.jobs
    for asked in ("resume", "forecast", "devices"):
        if config[asked]:
            raise UserError(f"{asked}: works on the command line only: leave out {asked}=")
    for key, value in options.items():
        if key not in chosen:
            (config if key in TRAIN else config["trainer"])[key] = value
    return config


def _folder(config: Config, folder: str | Path | None) -> Path:
    """Returns the run's folder, which is ``folder`` or a new folder with the date and time as its name."""
    return Path(
        f"outputs/{config['name']}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        if folder is None
        else as_path("folder", folder)
    )


def _command(name: str, overrides: tuple[str, ...], options: dict[str, Any]) -> str:
    """Returns the Python call as text, which is recorded in the run's folder."""
    given = [*map(repr, overrides), *(f"{key}={value!r}" for key, value in options.items())]
    return f"sdegen.{name}({', '.join(given)})"
