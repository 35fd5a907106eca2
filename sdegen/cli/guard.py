"""Log messages in the terminal, and reports of one line for errors that users can fix."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import NoReturn

from sdegen.core.errors import NO_MEMORY, Stopped, UserError
from sdegen.core.progress import Marked

log = logging.getLogger("sdegen")

OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""Errors of the operating system that are not faults of this program."""
WIDEST = 400
"""Largest number of characters in a line of a message. A value in a message may be longer."""


class Terminal(logging.StreamHandler):
    """Handler that logs to standard output.

    Args:
        prefix: text at the beginning of each line.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(sys.stdout)
        self.prefix = prefix
        self.setFormatter(Marked("%(mark)s%(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        """Returns the message of a record, with the prefix."""
        return textwrap.indent(super().format(record), self.prefix)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Discard further output if the reader has closed the pipe, as ``| head`` does. The work continues."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        discard_output()


@contextlib.contextmanager
def messages(prefix: str = "") -> Iterator[None]:
    """Log to standard output while the context is open.

    Each job opens this context, because a launcher may run a job in a new process, which has no handlers.

    Args:
        prefix: text at the beginning of each line, which distinguishes several jobs.
    """
    others = log.handlers[:]
    log.handlers[:], log.propagate = [Terminal(prefix)], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:] = others


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Switches garbage collection off while modules are imported, and excludes these modules from later collections.

    Imports make a million objects that are never freed, so that collections would take a fifth of the start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Raise UserError, with one line, in place of errors of the operating system and of errors for lack of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not (isinstance(error, MemoryError) or NO_MEMORY.search(text)):
            raise
        asked = re.search(r"[\d.]+ ?(?:bytes|[KMGTP]i?B)", text)
        needed = f", {asked[0]} were needed" if asked else ""
        raise UserError(
            f"out of memory{needed}: try a smaller trainer.batch_size, times.chunk, sampler.steps, count or batch_size"
        ) from error
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        raise UserError(f"{error.filename or 'a file'}: {error.strerror}") from error


def guard(work: Callable[[], object]) -> None:
    """Call a function and log to the terminal. For an error that the user can fix, exit with a message of one line."""
    try:
        with messages(), user_errors():
            work()
    except UserError as error:
        fail(str(error))
    except Stopped as stop:
        fail(str(stop), 128 + stop.number)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Discard all further output, so that Python's flush at exit does not fail after the reader closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int = 2) -> NoReturn:
    """Exit with a message on standard error."""
    print(shortened(message), file=sys.stderr, flush=True)
    raise SystemExit(status)


def shortened(message: str) -> str:
    """Returns a message. In lines longer than :data:`WIDEST`, an ellipsis replaces the middle."""
    half = WIDEST // 2 - 2
    return "\n".join(
        line if len(line) <= WIDEST else f"{line[:half]} … {line[-half:]}" for line in message.splitlines()
    )
