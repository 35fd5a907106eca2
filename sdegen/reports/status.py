"""The states of the jobs of sweeps, and of single runs, below a folder, which are read quickly, without torch."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdegen.core.errors import UserError
from sdegen.runs import files, ledger, locks
from sdegen.runs.ledger import Record

STATES = ("running", "waiting", "stopped", "failed", "pruned", "done")
"""States of jobs, in the order in which they are counted. A stopped job was interrupted or killed."""
TAIL = 4096
"""Number of bytes at the end of a file in which the last line is searched."""
WIDEST = 400
"""Largest number of characters of a line."""
SILENT = 120
"""Number of seconds without a new line after which a running job is called silent."""


class Job(NamedTuple):
    """A job of a sweep, or a single run.

    Attributes:
        name: name of its folder.
        state: one of :data:`STATES`.
        line: last line of the log, reason of an end, or options of a job that waits.
    """

    name: str
    state: str
    line: str


def status(root: Path) -> dict[Path, list[Job]]:
    """Returns the jobs below a folder, by the folder of their sweep, or by the folder that contains the runs.

    Raises:
        UserError: the folder does not exist, or contains neither a sweep nor a run.
    """
    root = files.resolve(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give a folder with runs in it, such as outputs")
    found: dict[Path, list[Job]] = {}
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        records, waiting = ledger.read(here), ledger.announced(here)
        jobs = [name for name in dict.fromkeys([*waiting, *map(str, records)]) if Path(name).name == name]
        if jobs:
            # Options that all jobs share say nothing about a job that waits.
            shared = set.intersection(*map(set, waiting.values())) if len(waiting) > 1 else set()
            own = {name: [one for one in given if one not in shared] for name, given in waiting.items()}
            states = [_job(here / name, records.get(name), own.get(name, ())) for name in jobs]
            found.setdefault(here, []).extend(sorted(states, key=lambda job: natural(job.name)))
        elif "config.yaml" in names and ("checkpoints" in inner or "provenance.json" in names):
            found.setdefault(here.parent, []).append(_run(here))
            inner.clear()
        inner[:] = sorted((name for name in inner if name not in jobs and not name.startswith(".")), key=natural)
    if not found:
        raise UserError(f"{root}: holds neither a sweep nor a run: give a folder with runs in it, such as outputs")
    return found


def table(found: dict[Path, list[Job]]) -> str:
    """Returns the states as text: for each folder, a line that counts the states, and a line for each job."""
    blocks = []
    for folder, jobs in found.items():
        counts = Counter(job.state for job in jobs)
        counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        width = max(len(job.name) for job in jobs)
        lines = [f"  {job.state:7}  {job.name:{width}}  {job.line}".rstrip() for job in jobs]
        blocks.append("\n".join([f"{folder}: {counted}", *lines]))
    return "\n\n".join(blocks)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Returns a key that sorts 10-smile after 9-smile."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _job(folder: Path, record: Record | None, given: Sequence[str]) -> Job:
    """Returns the state of a job of a sweep."""
    if record is None and not (folder / locks.LOG).exists():
        return Job(folder.name, "waiting", _clean(" ".join(given)))
    run = _run(folder)
    if record is None or run.state in ("running", "done"):
        where = "" if record is None else _clean(str(record.where))
        elsewhere = run.state == "running" and where.partition(",")[0] not in ("", socket.gethostname())
        return run._replace(line=f"{run.line} ({where})") if elsewhere else run
    if record.state in ("failed", "pruned"):
        return Job(folder.name, record.state, _clean(str(record.error)))
    if record.state == "requeued":
        return Job(folder.name, "waiting", _clean(str(record.error)))
    if locks.is_claimed(folder) is None and record.state == "begun":
        return Job(folder.name, "running", f"{run.line} (or killed: the file system has no locks)")
    if record.state == "interrupted":
        return Job(folder.name, "stopped", _clean(str(record.error)))
    return Job(folder.name, "stopped", f"killed; {run.line}")


def _run(folder: Path) -> Job:
    """Returns the state of a run, as the files of its folder show it."""
    line = last_line(folder / locks.LOG)
    # The log has the time and then the message.
    line = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+  ", "", line)
    step = last_line(folder / "scalars.csv").partition(",")[0]
    reached = f"step {step}: {line}" if step.isdecimal() and not re.search(r"\bstep +\d", line) else line
    if locks.is_claimed(folder):
        silent = time.time() - max(_written(folder / name) for name in (locks.LOG, "scalars.csv"))
        return Job(folder.name, "running", reached + (f" (silent for {silent / 60:.0f} min)" * (silent > SILENT)))
    if (folder / "metrics.json").exists():
        return Job(folder.name, "done", line)
    return Job(folder.name, "failed" if line.startswith("error: ") else "stopped", line.removeprefix("error: "))


def last_line(path: Path) -> str:
    """Returns the last line of a file that is not empty, without control characters; an empty text without a file."""
    if not path.is_file() or path.is_symlink():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = file.read(TAIL).decode(errors="replace").split("\n")
    return next((_clean(line) for line in reversed(lines) if line.strip()), "")


def _clean(text: str) -> str:
    """Returns a text on one line, shortened, without characters that a terminal would obey."""
    text = "".join(one if one.isprintable() else " " for one in text).strip()
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 2]} …"


def _written(path: Path) -> float:
    """Returns the time of the last change of a file; 0 without a file."""
    return path.stat().st_mtime if path.is_file() else 0.0
