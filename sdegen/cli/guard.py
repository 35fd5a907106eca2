"""The guard of the command line: an error that the user can mend becomes one line and an exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from sdegen.cli.jobs import messages
from sdegen.core.errors import NO_MEMORY, Stopped, UserError

OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)
"""Errors of the operating system that are no faults of this program."""
WIDEST = 400
"""Characters of a line: a message may repeat a value of any length."""


def guard(work: Callable[[], object]) -> None:
    """Do some work with its messages on the terminal; exit with one line where the user can mend what went wrong."""
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
        # The reader has closed the pipe (| head); Python's own flush at exit must not fail, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        fail(f"{error.filename or 'a file'}: {error.strerror}")


def fail(message: str, status: int = 2) -> NoReturn:
    """Exit with a message on standard error."""
    print(shortened(message), file=sys.stderr, flush=True)
    raise SystemExit(status)


def shortened(message: str) -> str:
    """Returns a message whose lines have at most :data:`WIDEST` characters, the middle left out."""
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
