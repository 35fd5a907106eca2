"""The ledger of a sweep: finished jobs are skipped, failed jobs run again, and no line is torn by other processes."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from sdegen.core.errors import UserError
from sdegen.runs import ledger, locks


class Work:
    """Job that records its calls and fails the first ``failures`` times."""

    def __init__(self, folder: Path, failures: int = 0, saves: bool = False) -> None:
        self.folder, self.failures, self.saves, self.calls = folder, failures, saves, []

    def attempt(self, **config: object) -> bool:
        return ledger.attempt(self.folder, config, lambda: self.work("start"), lambda: self.work("resume"))

    def work(self, name: str) -> None:
        self.calls.append(name)
        left = {path.name for path in self.folder.iterdir()} - {locks.LOG}
        assert left == (set() if name == "start" else {"checkpoints"})
        assert name != "start" or (self.folder / locks.LOG).read_bytes() == b""
        if self.saves:
            (self.folder / "checkpoints").mkdir(exist_ok=True)
            (self.folder / "checkpoints" / "last.pt").touch()
        else:
            (self.folder / "half").touch()
        if len(self.calls) <= self.failures:
            raise ZeroDivisionError("a fault\nof the program")
        (self.folder / "half").unlink(missing_ok=True)
        (self.folder / "metrics.json").touch()


@pytest.mark.parametrize(("saves", "calls"), [(False, ["start", "start"]), (True, ["start", "resume"])])
def test_a_failed_job_is_done_again_and_a_finished_one_is_not(tmp_path: Path, saves: bool, calls: list[str]) -> None:
    """A failed job continues from its last checkpoint. Without a checkpoint, it begins again in a clean folder."""
    job = Work(tmp_path / "0-smile", failures=1, saves=saves)
    with pytest.raises(ZeroDivisionError):
        job.attempt(a=1)
    record = ledger.read(tmp_path)["0-smile"]
    assert (record.state, record.error) == ("failed", "ZeroDivisionError: a fault of the program")
    assert job.attempt(a=1)
    assert job.calls == calls
    assert ledger.read(tmp_path)["0-smile"].state == "done"
    assert not job.attempt(a=1)
    assert job.calls == calls


def test_a_job_without_metrics_is_not_done(tmp_path: Path) -> None:
    job = Work(tmp_path / "0-smile", saves=True)
    assert job.attempt(a=1)
    (job.folder / "metrics.json").unlink()
    assert job.attempt(a=1)
    assert job.calls == ["start", "resume"]


def test_folders_of_another_configuration_or_purpose_are_left_alone(tmp_path: Path) -> None:
    job = Work(tmp_path / "0-smile")
    assert job.attempt(a=1, b={"c": 2})
    with pytest.raises(UserError, match="holds a run of another configuration"):
        job.attempt(a=1, b={"c": 3})
    stranger = Work(tmp_path / "1-smile")
    stranger.folder.mkdir()
    (stranger.folder / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds a run of another configuration"):
        stranger.attempt(a=1)
    assert (stranger.folder / "thesis.txt").exists()
    assert stranger.calls == []


def test_a_line_that_is_cut_off_hides_neither_earlier_nor_later_lines(tmp_path: Path) -> None:
    record = ledger.Record("0-a", "x", "done", 1.5)
    ledger.append(tmp_path, record)
    with (tmp_path / ledger.NAME).open("a") as file:
        file.write('{"job": "1-b", "con')
    assert ledger.read(tmp_path) == {"0-a": record}
    ledger.append(tmp_path, record._replace(job="2-c"))
    assert set(ledger.read(tmp_path)) == {"0-a", "2-c"}


def _write(sweep: Path, number: int) -> None:
    for i in range(200):
        ledger.append(sweep, ledger.Record(f"{number}-{i}", "x" * (i % 50), "failed", i, "an error " * 40))


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path, n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = ledger.read(tmp_path)
    assert len(found) == 800
    assert all(record.error == "an error " * 40 for record in found.values())


def test_a_job_that_was_killed_before_its_last_line_is_done(tmp_path: Path) -> None:
    job = Work(tmp_path / "0-smile", saves=True)
    assert job.attempt(a=1)
    lines = (tmp_path / ledger.NAME).read_text().splitlines(keepends=True)
    (tmp_path / ledger.NAME).write_text("".join(lines[:-1]))
    assert ledger.read(tmp_path)["0-smile"].state == "begun"
    assert not job.attempt(a=1)
    assert job.calls == ["start"] and ledger.read(tmp_path)["0-smile"].state == "done"


def test_a_job_that_another_process_has_just_begun_is_left_alone(tmp_path: Path) -> None:
    """The other process has no checkpoint yet, and its files must not be removed."""
    job = Work(tmp_path / "0-smile", failures=1)
    with pytest.raises(ZeroDivisionError):
        job.attempt(a=1)
    with locks.claimed(job.folder), pytest.raises(UserError, match="another process is training there"):
        job.attempt(a=1)
    assert (job.folder / "half").exists() and job.calls == ["start"]
    assert job.attempt(a=1)


def _claim(folder: Path, found: SimpleQueue[str]) -> None:
    try:
        with locks.claimed(folder):
            found.put("claimed")
    except UserError as error:
        found.put(str(error))


def test_the_files_of_an_attempt_are_removed_under_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that comes during the removal must not get the folder, because its files would be removed too."""
    job, empty, context = Work(tmp_path / "0-smile", failures=1), locks.empty, multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def visited(folder: Path) -> None:
        other = context.Process(target=_claim, args=(folder, found))
        other.start()
        other.join()
        empty(folder)

    with pytest.raises(ZeroDivisionError):
        job.attempt(a=1)
    monkeypatch.setattr(locks, "empty", visited)
    assert job.attempt(a=1)
    assert "another process is training there" in found.get()


def _compete(folder: Path, barrier: Barrier, found: SimpleQueue[str]) -> None:
    def start() -> None:
        found.put("started")
        (folder / "metrics.json").touch()

    barrier.wait()
    try:
        found.put("done" if not ledger.attempt(folder, {"a": 1}, start, start) else "worked")
    except UserError as error:
        assert "another process is training there" in str(error)
        found.put("refused")


def test_of_several_processes_one_does_the_job(tmp_path: Path) -> None:
    """The others are refused or find the job done, and leave no line in the ledger."""
    context = multiprocessing.get_context("fork")
    for number in range(10):
        found, barrier = context.SimpleQueue(), context.Barrier(4)
        given = (tmp_path / str(number), barrier, found)
        processes = [context.Process(target=_compete, args=given, daemon=True) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        outcomes = [found.get() for _ in range(5)]
        assert outcomes.count("started") == outcomes.count("worked") == 1
    states = [json.loads(line)["state"] for line in (tmp_path / ledger.NAME).read_text().splitlines()]
    assert states == ["begun", "done"] * 10


def _look(folder: Path, stop: Event) -> None:
    while not stop.is_set():
        locks.is_claimed(folder)


def test_a_process_that_looks_keeps_no_other_from_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=_look, args=(tmp_path, stop), daemon=True)
    process.start()
    for _ in range(500):
        with locks.claimed(tmp_path):
            pass
    stop.set()
    process.join()
    with locks.claimed(tmp_path):
        assert locks.is_claimed(tmp_path)
    assert locks.is_claimed(tmp_path) is False


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    job = Work(tmp_path / "0-smile")
    assert job.attempt(a=1)
    assert caplog.messages == [f"{job.folder}: the file system has no locks: train there with one command at a time"]
    assert ledger.read(tmp_path)["0-smile"].state == "done" and locks.is_claimed(job.folder) is None
