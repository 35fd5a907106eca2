"""The states of jobs and runs, as ``sdegen status`` shows them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SHORT, newest, run

from sdegen.core.errors import UserError
from sdegen.reports import status
from sdegen.reports.status import Job
from sdegen.runs import ledger, locks
from sdegen.runs.ledger import Record

PROCESSES = multiprocessing.get_context("fork")
TIME = "2026-11-29 13:59:12,826  "


def _hold(folder: Path, ready: str) -> None:
    with locks.claimed(folder), open(ready, "w") as told:
        told.write("claimed")
        told.close()
        # The process that started this one kills it.
        PROCESSES.Event().wait()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Path]:
    """Returns a folder that another process has claimed."""
    folder, ready = tmp_path / "sweep" / "2-smile", str(tmp_path / "ready")
    os.mkfifo(ready)
    process = PROCESSES.Process(target=_hold, args=(folder, ready))
    process.start()
    with open(ready) as told:
        assert told.read() == "claimed"
    yield folder
    process.kill()
    process.join()


def write(folder: Path, log: str, done: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / locks.LOG).open("a") as file:
        file.write(f"{TIME}first\n{TIME}{log}\n")
    if done:
        (folder / "metrics.json").write_text("{}")


def test_each_job_of_a_sweep_has_its_state_and_its_line(worker: Path) -> None:
    """One job waits, one runs, and one has each of the other states; a job of an earlier command is known, too."""
    sweep = worker.parent
    ledger.announce(sweep, {f"{number}-smile": ["sde=ve", f"seed={number}"] for number in range(11)})
    records = {
        "0-smile": ("done", ""),
        "1-smile": ("failed", "the disk is full"),
        "2-smile": ("begun", ""),
        "3-smile": ("interrupted", "stopped by SIGINT, saved at step 7"),
        "4-smile": ("pruned", "pruned, saved at step 8"),
        "5-smile": ("requeued", "in the queue again"),
        "6-smile": ("begun", ""),
        "7-smile": ("begun", ""),
        "old": ("done", ""),
    }
    for name, (state, error) in records.items():
        ledger.append(sweep, Record(name, "x", "begun"))
        ledger.append(sweep, Record(name, "x", state, 1.0, error))  # type: ignore[arg-type]
        write(sweep / name, f"line of {name}", done=name in ("0-smile", "7-smile", "old"))
    (worker / "scalars.csv").write_text("step,name,value\n40,train/loss,0.5\n")
    # A launcher has made the folder of this job, which has not begun.
    (sweep / "8-smile").mkdir()
    found = {job.name: job for job in status.status(sweep)[sweep]}
    assert list(found) == [*(f"{number}-smile" for number in range(11)), "old"]
    assert {name: (job.state, job.line) for name, job in found.items()} == {
        "0-smile": ("done", "line of 0-smile"),
        "1-smile": ("failed", "the disk is full"),
        "2-smile": ("running", "step 40: line of 2-smile"),
        "3-smile": ("stopped", "stopped by SIGINT, saved at step 7"),
        "4-smile": ("pruned", "pruned, saved at step 8"),
        "5-smile": ("waiting", "in the queue again"),
        "6-smile": ("stopped", "killed; line of 6-smile"),
        # This job was killed after its last file and before its last record.
        "7-smile": ("done", "line of 7-smile"),
        "8-smile": ("waiting", "seed=8"),
        "9-smile": ("waiting", "seed=9"),
        "10-smile": ("waiting", "seed=10"),
        "old": ("done", "line of old"),
    }
    first, *lines = status.table(status.status(sweep.parent)).splitlines()
    assert first == f"{sweep}: 1 running, 4 waiting, 2 stopped, 1 failed, 1 pruned, 3 done"
    assert lines[2] == "  running  2-smile   step 40: line of 2-smile"


def test_a_job_on_another_machine_names_it_and_a_silent_one_is_called_so(worker: Path) -> None:
    ledger.append(worker.parent, Record(worker.name, "x", "begun", where="node7, Slurm job 42"))
    write(worker, "step 5 of 9")
    os.utime(worker / locks.LOG, (0, os.stat(worker / locks.LOG).st_mtime - 3600))
    ((job,),) = status.status(worker.parent).values()
    assert job == Job("2-smile", "running", "step 5 of 9 (silent for 60 min) (node7, Slurm job 42)")


def test_text_from_files_cannot_control_the_terminal(tmp_path: Path) -> None:
    ledger.append(tmp_path, Record("0-a", "x", "failed", 1.0, "red \x1b[31m\nand \u202e"))
    ledger.append(tmp_path, Record("../../etc", "x", "done"))
    (tmp_path / "0-a").mkdir()
    (tmp_path / "0-a" / locks.LOG).write_bytes(b"\xff" * 9000)
    ((job,),) = status.status(tmp_path).values()
    assert job == Job("0-a", "failed", "red  [31m and")


def test_runs_without_a_sweep_have_their_state_too(tmp_path: Path) -> None:
    """A training that diverges, one that is done, and one that has begun and was killed."""
    made = run("train", "dataset=moons", *SHORT, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    good = newest(tmp_path, "moons")
    wild = ("optimizer.lr=1e18", "trainer.clip=null", "trainer.steps=40")
    failed = run("train", "dataset=moons", *SHORT, *wild, cwd=tmp_path)
    assert failed.returncode == 2
    bad = newest(tmp_path, "moons")
    result = run("status", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head == "outputs/moons: 1 failed, 1 done"
    assert [line.split()[:2] for line in lines] == [["done", good.name], ["failed", bad.name]]
    # The log ends with the message of the command.
    assert lines[1].split(maxsplit=2)[2] == failed.stderr.strip()
    (good / "metrics.json").unlink()
    assert run("status", "outputs/moons/latest", cwd=tmp_path).stdout.splitlines()[0] == "outputs/moons: 1 failed"
    assert run("status", str(good), cwd=tmp_path).stdout.splitlines()[0] == f"{good.parent}: 1 stopped"


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither a sweep nor a run"):
        status.status(tmp_path)
    with pytest.raises(UserError, match="none: no such folder"):
        status.status(tmp_path / "none")
