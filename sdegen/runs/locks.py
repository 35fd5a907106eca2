"""The lock of a run's folder, which one process holds while it writes there. The lock is on the file of the log."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

LOG = "train.log"
"""File in a run's folder with the messages of the program."""
ATTEMPTS = 5000
"""Number of attempts, a millisecond apart, to lock a file that other processes only look at."""

_shared: set[tuple[int, Path]] = set()
"""Folders that this process has locked and may lock again, each with the process, since a fork has locked none."""


@contextlib.contextmanager
def claimed(folder: Path, again: bool = False) -> Iterator[None]:
    """Locks a run's folder for this process until the context is left or the process ends.

    The lock holds on all machines that share the file system, if the file system has locks. Temporary files that a
    killed process left in :func:`sdegen.runs.files.replace` are removed.

    Args:
        folder: the run's folder.
        again: True if the work inside the context locks the folder again, as a training does in a job of a sweep.

    Raises:
        UserError: another process has locked the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = os.getpid(), folder.resolve()
    if claim in _shared:
        yield
        return
    # NFS locks only files that are open for reading and writing.
    with (folder / LOG).open("a+b") as file:
        try:
            if not _lock(file):
                raise UserError(f"{folder}: another process is training there: wait for it, or stop it")
        except (ImportError, OSError):
            log.warning(f"{folder}: the file system has no locks: train there with one command at a time")
        _shared.update([claim] if again else [])
        try:
            for inner in (folder, folder / "checkpoints", folder / "averages"):
                for left in inner.glob(".*"):
                    if re.fullmatch(r"\..+\.\d+", left.name):
                        left.unlink()
            yield
        finally:
            _shared.discard(claim)


def _lock(file: IO[bytes]) -> bool:
    """Locks an open file; returns False if another process has locked it.

    Raises OSError or ImportError if the file system or the system has no locks.
    """
    import fcntl

    for _ in range(ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        try:
            # This succeeds if the others only look, as is_claimed does for a moment.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        time.sleep(1e-3)
    return False


def is_claimed(folder: Path) -> bool | None:
    """Returns True if a process has locked a run's folder with :func:`claimed`; None if there are no locks."""
    try:
        import fcntl

        with (folder / LOG).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except (ImportError, OSError):
        return None
    return False


def empty(folder: Path) -> None:
    """Removes the content of a folder that this process has locked, as far as the system allows.

    The log is emptied and not removed, because the lock is on this file: another process could lock a new log.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            if path.name == LOG:
                os.truncate(path, 0)
            else:
                path.unlink()
