"""The guard of the command line: messages on the terminal, and one line for each error that the user can mend."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import NoReturn

from sdegen.core.errors import NO_MEMORY, Stopped, UserError

log = logging.getLogger("sdegen")

OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""Errors of the operating system that are no faults of this program."""
WIDEST = 400
"""Characters of a line: a message may repeat a value of any length."""


class Terminal(logging.StreamHandler):
    """Handler that writes messages on the standard output of this process.

    Args:
        prefix: words at the beginning of each line.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(sys.stdout)
        self.prefix = prefix

    def format(self, record: logging.LogRecord) -> str:
        """Returns the message of a record."""
        return textwrap.indent(super().format(record), self.prefix)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Discard further messages once the reader has closed the pipe (``| head``); the work goes on."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
            return
        discard_output()


@contextlib.contextmanager
def messages(prefix: str = "") -> Iterator[None]:
    """Write the program's messages on standard output while the context is open.

    A launcher may run a job in another process, which has no handlers yet.

    Args:
        prefix: words at the beginning of each line, which distinguish several jobs.
    """
    others = log.handlers[:]
    log.handlers[:], log.propagate = [Terminal(prefix)], False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:] = others


def guard(work: Callable[[], object]) -> None:
    """Do some work with its messages on the terminal; exit with one line if the user can mend what went wrong."""
    try:
        with messages():
            work()
    except UserError as error:
        fail(str(error))
    except (MemoryError, RuntimeError) as error:
        if mistake := short_of_memory(error):
            fail(str(mistake))
        raise
    except Stopped as stop:
        fail(str(stop), 128 + stop.number)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        fail(f"{error.filename or 'a file'}: {error.strerror}")


def discard_output() -> None:
    """Discard what is printed from now on: the reader has closed the pipe, and Python's flush at exit must not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, status: int = 2) -> NoReturn:
    """Exit with a message on standard error."""
    print(shortened(message), file=sys.stderr, flush=True)
    raise SystemExit(status)


def shortened(message: str) -> str:
    """Returns a message whose lines have at most :data:`WIDEST` characters, with the middle left out."""
    half = WIDEST // 2 - 2
    return "\n".join(
        line if len(line) <= WIDEST else f"{line[:half]} … {line[-half:]}" for line in message.splitlines()
    )


def short_of_memory(error: Exception) -> UserError | None:
    """Returns one line with the options that ask for memory; None for any other error."""
    text = str(error)
    if not (isinstance(error, MemoryError) or NO_MEMORY.search(text)):
        return None
    asked = re.search(r"[\d.]+ ?(?:bytes|[KMGTP]i?B)", text)
    most = f", {asked[0]} were asked for" if asked else ""
    return UserError(
        f"out of memory{most}: try a smaller trainer.batch_size, times.chunk, sampler.steps, count or batch_size"
    )
