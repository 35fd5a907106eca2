"""Records of a run outside of its folder, in other programs than TensorBoard."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Logger(ABC):
    """A record of the options and scalars of a run. An error in a method never ends the training."""

    @abstractmethod
    def begin(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        """Starts the record of the run in a folder, or continues the record that was started for this folder."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records scalars. After a resume, scalars that are already recorded are skipped."""

    @abstractmethod
    def end(self, failed: bool) -> None:
        """Ends the record. A later :meth:`begin` may continue it."""


class Nothing(Logger):
    """No record."""

    def begin(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def end(self, failed: bool) -> None:
        pass


def needed(package: str, distribution: str) -> Any:  # noqa: ANN401
    """Imports a package that is not installed by default.

    Args:
        package: name of the package in Python.
        distribution: name with which pip installs the package.

    Raises:
        ValueError: the package is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the package {package} is missing ({reason}): pip install {distribution}") from None


def identity(folder: Path, program: str, new: str = "") -> str:
    """Returns the name under which a program knows the run in a folder, from the file ``<program>.txt`` in it.

    If there is no such file, the name ``new`` is written into it.
    """
    path = folder / f"{program}.txt"
    if not path.is_file():
        if not new:
            return ""
        path.write_text(f"{new}\n")
    return path.read_text().strip()
