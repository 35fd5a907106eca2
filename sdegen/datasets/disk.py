"""Arrays on the disk: they are mapped into memory, and a thread reads ahead what will be needed."""

from __future__ import annotations

import errno
import io
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

PIECE = 2**20
"""Number of bytes that are read at once."""

SETTLED = 2.0
"""Seconds after which another change of a file changes its time, too, on every usual file system."""

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Task = tuple["Future[None]", list[tuple[int, int]]]

_FOUND: dict[tuple[Disk, Hashable], Any] = {}


class Disk(NamedTuple):
    """Place of an array on the disk.

    Attributes:
        path: path of the file.
        offset: number of bytes before the first row.
        row: number of bytes in a row.
        version: size, number and times of the file; None if it has changed so recently that another change might leave
            its time the same.
    """

    path: Path
    offset: int
    row: int
    version: tuple[int, ...] | None

    @classmethod
    def of(cls, x: np.ndarray) -> Disk | None:
        """Returns the place of an array of :func:`mapped`, with the rows in any layout; None if it is in memory."""
        if not isinstance(x, np.memmap):
            return None
        path = Path(str(x.filename))
        facts = path.stat()
        settled = time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED
        version = (facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns) if settled else None
        return cls(path, x.offset, x.nbytes // max(1, len(x)), version)


def once(disk: Disk | None, name: Hashable, compute: Callable[[], Result]) -> Result:
    """Returns what ``compute`` finds by reading a whole array, of which no more than a summary may be left.

    A command opens its data several times. If they are on the disk, ``compute`` runs once in a process for each
    ``name`` and version of the file.
    """
    if disk is None or disk.version is None:
        return compute()
    if (disk, name) not in _FOUND:
        _FOUND[disk, name] = compute()
    return _FOUND[disk, name]


def mapped(path: Path) -> np.ndarray:
    """Maps the array of a ``.npy`` file into memory, after its size has been compared with its header.

    The memory is read-only: a mapping that could be written would be refused by Linux if the file is larger than the
    memory of the machine. The processes of a machine that map the same file share its pages.
    """
    return np.load(path, mmap_mode="r", allow_pickle=False)


def shared(x: np.ndarray) -> Tensor:
    """Returns an array as a tensor with the same memory. A tensor of a mapped array must not be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)


class ReadAhead(Generic[Key]):
    """Thread that reads parts of a file before they are needed.

    It reads into the page cache of the system, from which mapped arrays are read. So it changes no result, it uses no
    memory of the process, and processes that need the same parts share them. It ends with its object or its process.

    Args:
        disk: array in the file.
        rows: function that returns the first row and the end of each stretch of rows of a part.
    """

    def __init__(self, disk: Disk, rows: Callable[[Key], Sequence[tuple[int, int]]]) -> None:
        self._disk, self._rows = disk, rows
        # Keep the file open, because another process may remove it while it is mapped.
        file = disk.path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):
            # The system would also read what lies behind each stretch.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._asked: SimpleQueue[Task | None] = SimpleQueue()
        self._coming: dict[Key, Future[None]] = {}
        # The thread has no reference to this object, so that it ends when the object is no longer used.
        weakref.finalize(self, self._asked.put, None)
        threading.Thread(target=_work, args=(file, disk.path, self._asked), name="read ahead", daemon=True).start()

    def reach(self, now: Sequence[Key], following: Key) -> None:
        """Waits until the parts ``now`` have been read, while the part ``following`` is read or waits to be read.

        Raises:
            OSError: the file could not be read.
        """
        self._coming = {key: self._coming.get(key) or self._submitted(key) for key in (*now, following)}
        for key in now:
            self._coming[key].result()

    def _submitted(self, key: Key) -> Future[None]:
        future: Future[None] = Future()
        _, offset, size, _ = self._disk
        self._asked.put((future, [(offset + first * size, offset + end * size) for first, end in self._rows(key)]))
        return future


def _work(file: io.FileIO, path: Path, asked: SimpleQueue[Task | None]) -> None:
    """Reads stretches of bytes of a file until None is asked."""
    with file:
        while (task := asked.get()) is not None:
            future, stretches = task
            try:
                _read(file, path, stretches)
            except Exception as error:  # noqa: BLE001 - reach raises it; without an answer, it would wait for ever
                future.set_exception(error)
            else:
                future.set_result(None)


def _read(file: io.FileIO, path: Path, stretches: Sequence[tuple[int, int]]) -> None:
    """Reads stretches of bytes, and forgets them."""
    piece = memoryview(bytearray(PIECE))
    for start, stop in stretches:
        file.seek(start)
        while start < stop:
            count = file.readinto(piece[: min(PIECE, stop - start)])
            if not count:
                raise OSError(errno.EIO, "is shorter than it was at the start: restore it", str(path))
            start += count
