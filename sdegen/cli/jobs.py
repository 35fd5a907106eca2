"""The jobs of one command: their messages on the terminal and their results.

A launcher may run a job in any process. Such processes share files, but no globals and no handlers of messages.
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
    """Format of messages with the same words before each line.

    Args:
        before: the words.
    """

    def __init__(self, before: str) -> None:
        super().__init__("%(message)s")
        self.before = before

    def format(self, record: logging.LogRecord) -> str:
        """Returns the message of a record."""
        return textwrap.indent(super().format(record), self.before)


class Terminal(logging.StreamHandler):
    """Handler that writes messages on the standard output of this process.

    Args:
        before: words at the beginning of each line.
    """

    def __init__(self, before: str) -> None:
        super().__init__(sys.stdout)
        self.setFormatter(Lines(before))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Discard further messages once the reader has closed the pipe (``| head``); the work goes on."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def messages(before: str = "") -> Iterator[None]:
    """Write the program's messages on the standard output of this process while the context is open.

    Args:
        before: words at the beginning of each line, which distinguish several jobs.
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
        folder: the folder of the files, in which every process of the command can write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, number: int, found: object) -> None:
        """Record the result of a job that succeeded, in the types of JSON."""
        self._note(number, {"found": found})

    def failed(self, number: int) -> None:
        """Record that a job failed."""
        self._note(number, {})

    def found(self) -> list[Any]:
        """Returns the results of the jobs that succeeded, in the order of the jobs."""
        return [note["found"] for note in self._notes() if note]

    def failures(self) -> int:
        """Returns the number of jobs that failed."""
        return sum(not note for note in self._notes())

    def _note(self, number: int, note: dict[str, object]) -> None:
        # A process may be killed while it writes, so the file appears when it is complete.
        temporary = self.folder / f".{number}"
        temporary.write_text(json.dumps(note))
        os.replace(temporary, self.folder / f"{number}.json")

    def _notes(self) -> list[dict[str, Any]]:
        paths = sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem))
        return [json.loads(path.read_text()) for path in paths]
