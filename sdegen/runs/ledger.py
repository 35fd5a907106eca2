"""The states of the jobs of a sweep, so that the same command does only what is missing.

A line of ``ledger.jsonl`` in the sweep's folder says that a job has begun, is done or has failed; the last line of a
job counts. Lines are appended whole, so that several jobs may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sdegen.core.errors import UserError
from sdegen.runs import files

NAME = "ledger.jsonl"


class Record(NamedTuple):
    """A line of the ledger.

    Attributes:
        job: name of its folder inside the sweep's.
        config: hash of its configuration, resolved.
        state: of the job.
        seconds: since it began.
        error: the reason of a failure, in one line.
    """

    job: str
    config: str
    state: Literal["begun", "done", "failed"]
    seconds: float = 0.0
    error: str = ""


def read(sweep: Path) -> dict[str, Record]:
    """Returns the last record of each job by its name; empty if there is no ledger."""
    records = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (sweep / NAME).read_text().splitlines():
            # A full disk or a power failure leaves half a line: that job has not finished.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                record = Record(**json.loads(line))
                records[record.job] = record
    return records


def attempt(folder: Path, config: Mapping[str, Any], start: Callable[[], object], go_on: Callable[[], object]) -> bool:
    """Does a job of a sweep; returns False if it is done already.

    Args:
        folder: the job's, inside the sweep's.
        config: its configuration, resolved.
        start: does the job from its beginning, in a folder that holds nothing but an empty log.
        go_on: continues the job from its last checkpoint.

    Raises:
        UserError: the folder holds a job of another configuration.
    """
    content = json.dumps(config, sort_keys=True, default=str)
    key, last = hashlib.sha256(content.encode()).hexdigest()[:16], read(folder.parent).get(folder.name)
    if folder.exists() and any(folder.iterdir()) and (last is None or last.config != key):
        raise UserError(
            f"{folder}: holds a run of another configuration: remove it, or give the sweep another folder by "
            f"hydra.sweep.dir=outputs/other"
        )
    finished = last is not None and (folder / "metrics.json").exists()
    if finished and last is not None and last.state == "done":
        return False
    with _recorded(folder, key):
        if finished:
            # The job was killed after its last file, before the line that says so.
            return False
        if (folder / "checkpoints" / "last.pt").exists():
            go_on()
        else:
            # Remove what an attempt without a checkpoint has left, unless another process is at work there.
            with files.claimed(folder):
                files.empty(folder)
            start()
    return True


@contextlib.contextmanager
def _recorded(folder: Path, key: str) -> Iterator[None]:
    """Records that a job has begun; when the context is left, that it is done or has failed."""
    began = time.monotonic()

    def note(state: Literal["begun", "done", "failed"], error: str = "") -> None:
        append(folder.parent, Record(folder.name, key, state, round(time.monotonic() - began, 1), error))

    note("begun")
    try:
        yield
    except BaseException as error:
        message = " ".join(str(error).split())
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        note("failed", f"{kind}{message}".rstrip(": "))
        raise
    note("done")


def append(sweep: Path, record: Record) -> None:
    """Appends a line in one write, so that lines of other processes cannot split it."""
    sweep.mkdir(parents=True, exist_ok=True)
    file = os.open(sweep / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # A full disk may have cut the line before.
        size = os.lseek(file, 0, os.SEEK_END)
        start = "\n" if size and os.pread(file, 1, size - 1) != b"\n" else ""
        os.write(file, f"{start}{json.dumps(record._asdict())}\n".encode())
    finally:
        os.close(file)
