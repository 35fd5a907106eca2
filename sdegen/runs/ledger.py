"""What became of the jobs of a sweep, so that the same command again does only what is missing.

A line of ``ledger.jsonl`` in the sweep's folder says that a job has begun, is done or has failed; the last line of a
job holds. Lines are appended whole, so that several jobs may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sdegen.core.errors import UserError
from sdegen.runs import files

NAME = "ledger.jsonl"


class Record(NamedTuple):
    """A line of the ledger.

    Attributes:
        job: name of its folder in the sweep's.
        config: hash of its configuration, resolved.
        state: what has become of it.
        seconds: since it began.
        error: why it failed, in a line.
    """

    job: str
    config: str
    state: Literal["begun", "done", "failed"]
    seconds: float = 0.0
    error: str = ""


def read(sweep: Path) -> dict[str, Record]:
    """The last record of each job, by its name; none where there is no ledger."""
    records = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (sweep / NAME).read_text().splitlines():
            # A disk that was full, or power that failed, leaves half a line: that job has not finished.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                record = Record(**json.loads(line))
                records[record.job] = record
    return records


def attempt(folder: Path, config: Mapping[str, Any], start: Callable[[], object], go_on: Callable[[], object]) -> bool:
    """Do a job unless it is done already.

    Args:
        folder: the job's, in that of the sweep.
        config: its configuration, resolved.
        start: does the job from its beginning, in a folder that holds nothing but an empty log.
        go_on: does what is left of it, from its last checkpoint.

    Returns:
        Whether there was something to do.

    Raises:
        UserError: the folder holds a job of another configuration.
    """
    key = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]
    last = read(folder.parent).get(folder.name)
    if folder.exists() and any(folder.iterdir()) and (last is None or last.config != key):
        raise UserError(
            f"{folder}: holds a run of another configuration: remove it, or give the sweep another folder by "
            f"hydra.sweep.dir=outputs/other"
        )
    began = time.monotonic()

    def note(state: Literal["begun", "done", "failed"], error: str = "") -> None:
        append(folder.parent, Record(folder.name, key, state, round(time.monotonic() - began, 1), error))

    if last is not None and (folder / "metrics.json").exists():
        if last.state != "done":
            # Killed when all was there, but for the line that says so.
            note("done")
        return False
    note("begun")
    try:
        if (folder / "checkpoints" / "last.pt").exists():
            go_on()
        else:
            # What is left of an attempt that did not come to its first checkpoint, if it is not another process's now.
            with files.claimed(folder):
                files.empty(folder)
            start()
    except BaseException as error:
        note("failed", told(error))
        raise
    note("done")
    return True


def append(sweep: Path, record: Record) -> None:
    """Add a line: in one write to the end of the file, which other processes' lines cannot part."""
    sweep.mkdir(parents=True, exist_ok=True)
    file = os.open(sweep / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # The line before may have been cut short.
        size = os.lseek(file, 0, os.SEEK_END)
        start = "\n" if size and os.pread(file, 1, size - 1) != b"\n" else ""
        os.write(file, f"{start}{json.dumps(record._asdict())}\n".encode())
    finally:
        os.close(file)


def told(error: BaseException) -> str:
    """An exception in one line."""
    message = " ".join(str(error).split())
    return message if isinstance(error, UserError) else f"{type(error).__name__}: {message}".rstrip(": ")
