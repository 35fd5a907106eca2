"""States of the jobs of a sweep, so that a repeated command runs only the unfinished jobs.

``jobs.json`` in the sweep's folder names the jobs. Each line of ``ledger.jsonl`` records that a job has begun, is done,
has failed, was pruned or interrupted, or waits in the queue of a cluster again. The last line about a job is valid.

Jobs may run on several machines that share a file system. The file system must rename files atomically, show in an
opened file what another machine wrote before it closed the file, and hold locks (``flock``) between machines. NFS,
Lustre and GPFS do so, unless they are mounted without locks. Without locks, two lines that are appended at the same
moment may be lost, and two commands could train in one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sdegen.core.errors import Pruned, Stopped, UserError, one_line
from sdegen.runs import files, locks

NAME = "ledger.jsonl"
JOBS = "jobs.json"
"""File in a sweep's folder with the names of the jobs of the last command, and the overrides of each job."""
State = Literal["begun", "done", "failed", "pruned", "interrupted", "requeued"]


class Record(NamedTuple):
    """A line of the ledger.

    Attributes:
        job: name of the job's folder inside the sweep's folder.
        config: hash of the resolved configuration.
        state: state of the job.
        seconds: time since the job began.
        error: reason of a failure, an early end or an interruption, in one line.
        where: machine and process in which the job ran, and the number of the job on a cluster.
    """

    job: str
    config: str
    state: State
    seconds: float = 0.0
    error: str = ""
    where: str = ""


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
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    if _is_done(folder, key):
        return False
    # Read the ledger again under the lock: another process may have worked in the folder until now.
    with locks.claimed(folder, again=True):
        if _is_done(folder, key):
            return False
        finished = (folder / "metrics.json").exists()
        with _recorded(folder, key):
            if finished:
                # The job was killed after it wrote its last file and before it wrote "done" to the ledger.
                return False
            go_on(folder, start, resume)
    return True


def _is_done(folder: Path, key: str) -> bool:
    """Returns True if a job is done; raises UserError if its folder contains something else.

    Args:
        folder: the job's folder.
        key: hash of the job's configuration.
    """
    # Look into the folder first: a job that begins meanwhile writes to the ledger before it writes other files.
    filled = folder.exists() and any(path.name != locks.LOG or path.stat().st_size for path in folder.iterdir())
    last = read(folder.parent).get(folder.name)
    if filled and (last is None or last.config != key):
        raise UserError(
            f"{folder}: holds a run of another configuration: remove it, or choose another folder for the "
            f"sweep with hydra.sweep.dir=outputs/other"
        )
    return last is not None and last.state == "done" and (folder / "metrics.json").exists()


def go_on(folder: Path, start: Callable[[], object], resume: Callable[[], object]) -> None:
    """Resumes the run in a folder, or starts it again if it has no checkpoint: see :func:`attempt`."""
    with locks.claimed(folder, again=True):
        if (folder / "checkpoints" / "last.pt").exists():
            resume()
        else:
            locks.empty(folder)
            start()


@contextlib.contextmanager
def _recorded(folder: Path, key: str) -> Iterator[None]:
    """Records that a job has begun and, when the context is left, that it is done or has failed."""
    began, number = time.monotonic(), os.environ.get("SLURM_JOB_ID")
    where = f"{socket.gethostname()}, process {os.getpid()}" + (f", Slurm job {number}" if number else "")

    def note(state: State, error: str = "") -> None:
        append(folder.parent, Record(folder.name, key, state, round(time.monotonic() - began, 1), error, where))

    note("begun")
    try:
        yield
    except Pruned as stop:
        note("pruned", str(stop))
        raise
    except KeyboardInterrupt as stop:
        note("interrupted", stop.what if isinstance(stop, Stopped) else "stopped")
        raise
    except SystemExit:
        # The launcher's handler of a signal has given the job back to the queue.
        note("requeued", "saved, and in the queue again")
        raise
    except BaseException as error:
        note("failed", one_line(error).rstrip(": "))
        raise
    note("done")


def append(sweep: Path, record: Record) -> None:
    """Appends a record as a line, in one write and under a lock, so that other processes cannot split the line."""
    sweep.mkdir(parents=True, exist_ok=True)
    with (sweep / NAME).open("a+b", buffering=0) as file:
        # On a shared file system, a machine knows the end of the file only after it has locked the file.
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        # A full disk may have cut off the previous line.
        size = file.seek(0, os.SEEK_END)
        start = "\n" if size and os.pread(file.fileno(), 1, size - 1) != b"\n" else ""
        file.write(f"{start}{json.dumps(record._asdict())}\n".encode())


def announce(sweep: Path, jobs: Mapping[str, Sequence[str]]) -> None:
    """Writes the names of the jobs of a sweep with their overrides, so that the jobs that wait are known."""
    files.write_json(sweep / JOBS, jobs)


def announced(sweep: Path) -> dict[str, list[str]]:
    """Returns the names of the jobs of a sweep with their overrides; empty if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        jobs = json.loads((sweep / JOBS).read_text())
        if isinstance(jobs, dict):
            return {name: list(map(str, given)) for name, given in jobs.items() if isinstance(given, list)}
    return {}
