"""The states of the jobs of a sweep, so that the same command does only what is missing.

Each line of ``ledger.jsonl`` in the sweep's folder records that a job has begun, is done or has failed; the last line
of a job counts. Lines are appended whole, so that several jobs may write at once.
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
State = Literal["begun", "done", "failed"]


class Record(NamedTuple):
    """Line of the ledger.

    Attributes:
        job: name of the job's folder inside the sweep's folder.
        config: hash of the resolved configuration.
        state: state of the job.
        seconds: time since the job began.
        error: reason of a failure, in one line.
    """

    job: str
    config: str
    state: State
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


def attempt(folder: Path, config: Mapping[str, Any], start: Callable[[], object], resume: Callable[[], object]) -> bool:
    """Does a job of a sweep; returns False if it is already done.

    Args:
        folder: the job's folder, inside the sweep's folder.
        config: resolved configuration of the job.
        start: does the job from its beginning, in a folder that holds nothing but an empty log.
        resume: continues the job from its last checkpoint.

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
            # The job was killed after it wrote its last file and before it wrote "done" to the ledger.
            return False
        if (folder / "checkpoints" / "last.pt").exists():
            resume()
        else:
            # Remove the files of an attempt without a checkpoint, unless another process is at work there.
            with files.claimed(folder):
                files.empty(folder)
            start()
    return True


@contextlib.contextmanager
def _recorded(folder: Path, key: str) -> Iterator[None]:
    """Records that a job has begun and, when the context is left, that it is done or has failed."""
    began = time.monotonic()

    def note(state: State, error: str = "") -> None:
        append(folder.parent, Record(folder.name, key, state, round(time.monotonic() - began, 1), error))

    note("begun")
    try:
        yield
    except BaseException as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        note("failed", " ".join(f"{kind}{error}".split()).rstrip(": "))
        raise
    note("done")


def append(sweep: Path, record: Record) -> None:
    """Appends a line in one write, so that lines of other processes cannot split it."""
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / NAME).open("a+b", buffering=0) as file:
        # A full disk may have cut off the previous line.
        size = file.seek(0, os.SEEK_END)
        start = "\n" if size and os.pread(file.fileno(), 1, size - 1) != b"\n" else ""
        file.write(f"{start}{json.dumps(record._asdict())}\n".encode())
