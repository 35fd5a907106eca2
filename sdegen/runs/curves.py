"""The table of a run's scalars, ``scalars.csv``: a line ``step,name,value`` for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sdegen.runs import events, files

NAME = "scalars.csv"
HEADER = "step,name,value"


class Curves:
    """Table of the scalars of a run. Each call of :meth:`add` writes at once, all lines or none.

    ``pandas.read_csv(path).pivot(index="step", columns="name", values="value")`` gives a column for each scalar.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file = self._path.open("ab", buffering=0)
        if not self._file.tell():
            self._write(HEADER)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a step; raise OSError if the disk is full."""
        self._write("\n".join(f"{step},{name},{value!r}" for name, value in values.items()))

    def _write(self, text: str) -> None:
        files.append(self._file, f"{text}\n".encode())

    def rewind(self, step: int) -> None:
        """Remove the scalars after a step, the final metrics, and a line that a power failure cut off."""
        lines = self._path.read_text(errors="replace").splitlines(keepends=True)[1:]
        kept = [line for line in lines if _is_kept(line, step)]
        if kept == lines:
            return
        self._file.close()
        try:
            files.replace(self._path, lambda temporary: temporary.write_text("".join([f"{HEADER}\n", *kept])))
        finally:
            self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _is_kept(line: str, step: int) -> bool:
    match = re.fullmatch(r"(\d{1,18}),([^,]+),[^,]+\n", line)
    return match is not None and int(match[1]) <= step and not match[2].startswith(f"{events.VALUES}/")
