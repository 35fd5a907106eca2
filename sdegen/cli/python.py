"""The commands from Python: the same options as on the command line, and a run as the result."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sdegen.cli.arguments import Arguments, read
from sdegen.cli.commands import resume
from sdegen.cli.composition import Composition
from sdegen.cli.guard import user_errors
from sdegen.config.compose import CONF, Config
from sdegen.config.options import TRAIN
from sdegen.core.errors import UserError
from sdegen.runs import files, session
from sdegen.runs.arrays import ArrayLike, array
from sdegen.runs.run import Run

DATA = "data.npz"
"""File in a run's folder that holds the array it was trained on."""


@user_errors()
def train(*overrides: str, folder: str | Path | None = None, **options: Any) -> Run:  # noqa: ANN401
    """Train a run, as ``sdegen train`` does, then sample, measure and draw into its folder.

    .. code-block:: python

        run = sdegen.train("experiment=smile", "trainer.steps=500")
        run = sdegen.train(dataset="moons", sde="ve", steps=500)
        run = sdegen.train("resume=outputs/smile/latest", "trainer.steps=1000")

    Args:
        overrides: options as on the command line.
        folder: the run's folder; None for ``outputs/<name>/<date and time>``.
        options: options by keyword: a choice of a group (``sde="ve"``), ``name``, ``seed`` or ``count``; any other is
            an option of the trainer (``steps=500``).

    Raises:
        UserError: an option is wrong, or the system refuses something; the message is the one of the command line.
    """
    arguments = _arguments(overrides)
    if arguments.values().get("resume") is not None:
        if folder is not None:
            raise UserError("folder: a resumed run stays in its own folder: leave it out")
        return resume(arguments, overrides, **{f"trainer.{key}": value for key, value in options.items()})
    config = _config(arguments, options)
    return session.train(config, _folder(config, folder), command=_command("train", overrides, options))


@user_errors()
def fit(
    x: ArrayLike,
    y: ArrayLike | str | None = None,
    *overrides: str,
    folder: str | Path | None = None,
    **options: Any,  # noqa: ANN401
) -> Run:
    """Train a run on an array in memory.

    The array is kept as ``data.npz`` in the run's folder, so that the run can be resumed, evaluated and reloaded.

    .. code-block:: python

        run = sdegen.fit(x, steps=500)
        run = sdegen.fit(images, labels, "network=unet", "network.label_dropout=0.1")

    Args:
        x: points ``(N,)`` or ``(N, d)``, or images ``(N, C, H, W)``: a NumPy array, a tensor or lists.
        y: classes of the points, ``(N,)`` integers from 0; may be left out.
        overrides: see :func:`train`.
        folder: see :func:`train`.
        options: see :func:`train`.

    Raises:
        UserError: see :func:`train`; also if the array cannot be trained on.
    """
    if isinstance(y, str):
        overrides, y = (y, *overrides), None
    arguments = _arguments(("dataset=file", "dataset.path=x", "name=array", *overrides))
    given = {"x": x, "y": y}
    arrays = {name: array(name, values).cpu().numpy() for name, values in given.items() if values is not None}
    config = _config(arguments, options)
    own = _folder(config, folder).absolute()
    if any((own / "checkpoints").glob("*.pt")):
        raise UserError(f"{own}: contains a run already: give another folder=")
    path = own / DATA

    def save(temporary: Path) -> None:
        # Opened here: NumPy would add its own ending to the name.
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    files.replace(path, save)
    config["dataset"]["path"] = str(path)
    try:
        return session.train(config, own, command=_command("fit", overrides, options))
    except UserError as error:
        if not any((own / "checkpoints").glob("*.pt")):
            path.unlink()
            with contextlib.suppress(OSError):
                own.rmdir()
        # The user knows the array, not its file.
        raise UserError(str(error).replace(f"dataset.path={path}: ", "x: ")) from error


def _arguments(overrides: tuple[str, ...]) -> Arguments:
    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise UserError(f"{override!r}: an option is a text such as 'trainer.steps=500'")
    return read(overrides)


def _config(arguments: Arguments, options: dict[str, Any]) -> Config:
    """Returns the configuration of train.yaml with overrides and options by keyword."""
    chosen = {key: value for key, value in options.items() if (CONF / key).is_dir()}
    arguments.overrides.extend(f"{group}={name}" for group, name in chosen.items())
    plan = Composition("train", arguments).plan()
    if plan.sweep is not None:
        raise UserError("hydra.mode=MULTIRUN: sweeps run on the command line only: sdegen train sweep=…")
    ((_, config),) = plan.jobs
    for asked in ("resume", "forecast"):
        if config[asked]:
            raise UserError(f"{asked}: works on the command line only: leave it out")
    for key, value in options.items():
        if key not in chosen:
            (config if key in TRAIN else config["trainer"])[key] = value
    return config


def _folder(config: Config, folder: str | Path | None) -> Path:
    """Returns the run's folder: the given one, or a new one named by the time."""
    return Path(f"outputs/{config['name']}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}" if folder is None else folder)


def _command(name: str, overrides: tuple[str, ...], options: dict[str, Any]) -> str:
    """Returns the call for the record of the run."""
    given = [*map(repr, overrides), *(f"{key}={value!r}" for key, value in options.items())]
    return f"sdegen.{name}({', '.join(given)})"
