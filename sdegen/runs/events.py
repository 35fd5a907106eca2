"""TensorBoard's files: each record reaches the operating system at once, whole or not at all."""

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
"""The beginning of the files' names."""


class Events:
    """New file of events.

    torch's SummaryWriter writes from a thread that holds records back, so that a killed process loses the last ones;
    flushed after each record it takes five times as long. On a full disk it leaves half a record, and TensorBoard reads
    nothing after that.

    Args:
        folder: for the file. TensorBoard reads files in the order of the seconds in their names, and this one is
            the last.
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
        """Write a summary of a step; raise OSError if the disk is full."""
        self._add(summary=summary, step=step)

    def start(self, step: int) -> None:
        """Make TensorBoard drop the earlier records from a step on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._add(session_log=SessionLog(status=SessionLog.START), step=step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, **content: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def write(self, record: bytes) -> None:
        """Write a whole record; called by TensorBoard's writer of records."""
        size = self._file.tell()
        try:
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            self._file.truncate(size)
            self._file.seek(size)
            raise
