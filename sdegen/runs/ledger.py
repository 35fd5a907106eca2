"""States of the jobs of a sweep, so that a repeated command runs only the unfinished jobs.

Each line of ``ledger.jsonl`` in the sweep's folder records that a job has begun, is done, has failed, or was pruned or
interrupted.
The last line about a job is valid. Each line is appended in one write, so that several jobs can write at the same time.
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

from sdegen.core.errors import Pruned, Stopped, UserError
from sdegen.runs import files

NAME = "ledger.jsonl"
State = Literal["begun", "done", "failed", "pruned", "interrupted"]


class Record(NamedTuple):
    """A line of the ledger.

    Attributes:
        job: name of the job's folder inside the sweep's folder.
        config: hash of the resolved configuration.
        state: state of the job.
        seconds: time since the job began.
        error: reason of a failure, an early end or an interruption, in one line.
    """

    job: str
    config: str
    state: State
    seconds: float = 0.0
    error: str = ""


def read(sweep: Path) -> dict[str, Record]:
    """Returns the last record of each job, by the name of the job; empty if there is no ledger."""
    records = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (sweep / NAME).read_text().splitlines():
            # Skip half a line, which a full disk or a power failure leaves: its job has not finished.
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                record = Record(**json.loads(line))
                records[record.job] = record
    return records


def attempt(folder: Path, config: Mapping[str, Any], start: Callable[[], object], resume: Callable[[], object]) -> bool:
    """Runs a job of a sweep; returns False if the job is already done.

    Args:
        folder: the job's folder, inside the sweep's folder.
        config: resolved configuration of the job.
        start: function that runs the job from the beginning, in a folder that contains nothing but an empty log.
        resume: function that continues the job from the last checkpoint.

    Raises:
        UserError: the folder contains a job with another configuration.
    """
    content = json.dumps(config, sort_keys=True, default=str)
    key, last = hashlib.sha256(content.encode()).hexdigest()[:16], read(folder.parent).get(folder.name)
    if folder.exists() and any(folder.iterdir()) and (last is None or last.config != key):
        raise UserError(
            f"{folder}: holds a run of another configuration: remove it, or choose another folder for the "
            f"sweep with hydra.sweep.dir=outputs/other"
        )
    finished = last is not None and (folder / "metrics.json").exists()
    if finished and last is not None and last.state == "done":
        return False
    with _recorded(folder, key):
        if finished:
            # The job was killed after it wrote its last file and before it wrote "done" to the ledger.
            return False
        go_on(folder, start, resume)
    return True


def go_on(folder: Path, start: Callable[[], object], resume: Callable[[], object]) -> None:
    """Resumes the run in a folder, or starts it again if it has no checkpoint: see :func:`attempt`."""
    if (folder / "checkpoints" / "last.pt").exists():
        resume()
        return
    # Remove the files of an attempt without a checkpoint, unless another process works in the folder.
    with files.claimed(folder):
        files.empty(folder)
    start()


@contextlib.contextmanager
def _recorded(folder: Path, key: str) -> Iterator[None]:
    """Records that a job has begun and, when the context is left, that it is done or has failed."""
    began = time.monotonic()

    def note(state: State, error: str = "") -> None:
        append(folder.parent, Record(folder.name, key, state, round(time.monotonic() - began, 1), error))

    note("begun")
    try:
        yield
    except Pruned as stop:
        note("pruned", str(stop))
        raise
    except KeyboardInterrupt as stop:
        note("interrupted", stop.what if isinstance(stop, Stopped) else "stopped")
        raise
    except BaseException as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        note("failed", " ".join(f"{kind}{error}".split()).rstrip(": "))
        raise
    note("done")


def append(sweep: Path, record: Record) -> None:
    """Appends a record as a line in one write, so that other processes cannot split the line."""
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / NAME).open("a+b", buffering=0) as file:
        # A full disk may have cut off the previous line.
        size = file.seek(0, os.SEEK_END)
        start = "\n" if size and os.pread(file.fileno(), 1, size - 1) != b"\n" else ""
        file.write(f"{start}{json.dumps(record._asdict())}\n".encode())
