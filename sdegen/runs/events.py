"""TensorBoard's files: a record is the operating system's as soon as it is written, whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

PREFIX = "events.out.tfevents."
"""What the names of the files begin with."""


class Events:
    """A new file of events.

    torch's SummaryWriter has a thread that holds events back for seconds, which are lost if the process is killed, and
    leaves half a record where the disk is full, behind which TensorBoard reads nothing more.

    Args:
        folder: where. TensorBoard reads its files by the seconds in their names: this one's come after all others'.
        suffix: of the name.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        from torch.utils.tensorboard import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        found = (re.match(rf"{re.escape(PREFIX)}(\d+)\.", path.name) for path in folder.glob(f"{PREFIX}*"))
        after = max((int(match[1]) + 1 for match in found if match), default=0)
        name = f"{PREFIX}{max(int(time.time()), after):010d}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = (folder / name).open("xb", buffering=0)
        self._records = RecordWriter(self)
        self._add(file_version="brain.Event:2")

    def add(self, summary: Summary, step: int = 0) -> None:
        """Write a summary of a step; OSError where the disk does not take it."""
        self._add(summary=summary, step=step)

    def start(self, step: int) -> None:
        """Let TensorBoard forget what earlier files, or records, have from a step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._add(session_log=SessionLog(status=SessionLog.START), step=step)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def _add(self, **content: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def write(self, record: bytes) -> None:
        """Write a whole record, as TensorBoard's writer of records asks for."""
        size = self._file.tell()
        try:
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            self._file.truncate(size)
            self._file.seek(size)
            raise
