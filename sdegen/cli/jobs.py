"""The jobs of one command: their messages on the terminal, and what each has found.

A launcher may run a job in any process, which shares files with the others and nothing else: no global, and no handler
of messages.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger("sdegen")


class Lines(logging.Formatter):
    """Messages as they are, each of their lines after the same words.

    Args:
        before: those words.
    """

    def __init__(self, before: str) -> None:
        super().__init__("%(message)s")
        self.before = before

    def format(self, record: logging.LogRecord) -> str:
        """The message of a record."""
        return textwrap.indent(super().format(record), self.before)


class Terminal(logging.StreamHandler):
    """Messages on the standard output of this process.

    Args:
        before: words at the beginning of each line.
    """

    def __init__(self, before: str) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(Lines(before))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write to nowhere from here on where the reader has seen enough (``| head``): the work goes on."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def messages(before: str = "") -> Iterator[None]:
    """While it is entered, the program's messages go to the standard output of this process.

    Args:
        before: words at the beginning of each line, which tell the lines of several jobs apart.
    """
    others = log.handlers[:]
    log.handlers[:], log.propagate = [Terminal(before)], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:] = others


class Results:
    """Results of the jobs of one command, each in a file.

    Args:
        folder: for the files; every process of the command can write there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, number: int, found: object) -> None:
        """Note that a job has ended well, and what it found, in the types of JSON."""
        self._note(number, {"found": found})

    def failed(self, number: int) -> None:
        """Note that a job has failed."""
        self._note(number, {})

    def found(self) -> list[Any]:
        """Returns the results of the jobs that ended well, in the order of the jobs."""
        return [note["found"] for note in self._notes() if note]

    def failures(self) -> int:
        """How many jobs have failed."""
        return sum(not note for note in self._notes())

    def _note(self, number: int, note: dict[str, object]) -> None:
        # A process may be killed while it writes.
        temporary = self.folder / f".{number}"
        temporary.write_text(json.dumps(note))
        os.replace(temporary, self.folder / f"{number}.json")

    def _notes(self) -> list[dict[str, Any]]:
        paths = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text()) for path in paths]
