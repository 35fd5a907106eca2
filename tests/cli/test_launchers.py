"""Launchers: the jobs of a command give the same results in one process and in several."""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing
import os
import pty
import re
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SHORT, Result, fresh, newest, run

from sdegen.cli import guard
from sdegen.runs.recorder import Recorder

LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}

BASIC = [LAUNCHERS["basic"], pytest.param(LAUNCHERS["joblib"], marks=pytest.mark.slow)]
"""Launchers of most tests. Only slow tests use joblib, whose processes take seconds to start."""


@pytest.fixture(params=LAUNCHERS.values(), ids=LAUNCHERS.keys())
def launcher(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


def started(script: str, *arguments: str, cwd: Path) -> Result:
    """Runs a command in a fork of this process.

    With joblib, the command runs in a new interpreter, because joblib's processes would outlive the fork.
    """
    return (fresh if "hydra/launcher=joblib" in arguments else run)(script, *arguments, cwd=cwd)


@pytest.mark.parametrize("launcher", BASIC, ids=LAUNCHERS.keys(), indirect=True)
def test_a_proof_that_fails_in_any_job_is_the_exit_status(
    launcher: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In job 0 the standard deviation of the kernel is 2 % too large, and a proof fails. In job 1 all proofs pass."""
    (tmp_path / "mine.py").write_text(
        "from sdegen.sde import VP\n\n\nclass Wide(VP):\n"
        "    def sigma(self, t):\n        return 1.02 * super().sigma(t)\n"
    )
    (tmp_path / "conf" / "sde").mkdir(parents=True)
    (tmp_path / "conf" / "sde" / "wide.yaml").write_text("_target_: mine.Wide\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("-m", "--config-dir", "conf", "sde=wide,vp", "sampler=ddim", "sampler.steps=100", *launcher)
    result = started("verify", *line, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    said = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
    claims = {job: [words[2] for words in said if words[1] == job] for job in ("0:", "1:")}
    assert claims["0:"].count("FAIL") >= 1 and set(claims["1:"][2:]) == {"pass"}
    (moments,) = (words[2:] for words in said if words[1] == "0:" and words[3].startswith("kernel solves"))
    assert moments[0] == "FAIL"


@pytest.mark.parametrize("launcher", BASIC, ids=LAUNCHERS.keys(), indirect=True)
def test_samplers_of_one_command_leave_a_frontier(launcher: tuple[str, ...], tmp_path: Path) -> None:
    """The table has the jobs in order, with the known number of evaluations of each sampler."""
    exact = ("dataset=gaussian_mixture", "network=oracle", "sampler.steps=2", "count=20", "name=exact", "figures=false")
    assert run("train", *exact, cwd=tmp_path).returncode == 0
    given = ("run=outputs/exact/latest", "sampler=heun,ddim", "sampler.steps=3", "count=50", "figures=false")
    result = started("sample", "-m", *given, *launcher, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    folder = tmp_path / result.stdout.splitlines()[-1].removeprefix("frontier in ")
    assert folder.parent.samefile(newest(tmp_path, "exact") / "frontiers")
    with (folder / "frontier.csv").open() as file:
        rows = [(row["sampler"], row["steps"], row["nfe"]) for row in csv.DictReader(file)]
    assert rows == [("heun", "3", "6"), ("ddim", "3", "3")]
    assert sorted(re.findall(r"^(job \d): results in outputs", result.stdout, re.MULTILINE)) == ["job 0", "job 1"]


def test_a_job_logs_and_reports_where_it_runs(launcher: tuple[str, ...], tmp_path: Path) -> None:
    """The terminal shows each line of ``train.log``, and each message about a mistake, after the name of the job."""
    (tmp_path / "outputs" / "mine" / "1-gaussian_mixture").mkdir(parents=True)
    (tmp_path / "outputs" / "mine" / "1-gaussian_mixture" / "thesis.txt").touch()
    line = (
        "-m",
        "dataset=gaussian_mixture",
        "seed=1,2",
        "trainer.threads=2",
        *SHORT,
        *launcher,
        "hydra.sweep.dir=outputs/mine",
    )
    result = started("train", *line, cwd=tmp_path)
    assert result.returncode == 2
    told, count = result.stderr.splitlines()
    assert told.startswith("job 1: outputs/mine/1-gaussian_mixture: holds a run of another configuration")
    assert count == "1 of 2 jobs failed"
    said = [text.removeprefix("job 0: ") for text in result.stdout.splitlines() if text.startswith("job 0: ")]
    folder = tmp_path / "outputs" / "mine" / "0-gaussian_mixture"
    logged = [text.split("  ", 1)[1] for text in (folder / "train.log").read_text().splitlines() if text[:2] == "20"]
    assert any(re.match(r"step 4 of 4   loss \d", text) for text in logged)
    assert said[0].startswith("dataset=gaussian_mixture seed=1 trainer.threads=2 trainer.steps=4")
    assert said[-1] == "results in outputs/mine/0-gaussian_mixture"
    assert [text for text in said[1:-1] if text in logged] == logged
    provenance = json.loads((folder / "provenance.json").read_text())
    # The stored command is the command of this job alone.
    assert "scripts/train.py dataset=gaussian_mixture seed=1 trainer.threads=2 " in provenance["command"]
    assert "hydra" not in provenance["command"]
    assert "threads: 1\n" in (folder / "config.yaml").read_text()


def on_a_terminal(work: Callable[[], object]) -> str:
    """Returns the text that a function writes to a terminal."""
    child, terminal = pty.fork()
    if not child:
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        termios.tcsetwinsize(2, (24, 80))
        work()
        os._exit(0)
    shown = b""
    # On Linux, reading from a closed terminal raises an error.
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 10_000):
            shown += part
    os.waitpid(child, 0)
    return shown.decode()


def test_a_process_beside_others_has_lines_where_one_alone_has_a_bar(tmp_path: Path) -> None:
    def step() -> None:
        with guard.messages("job 3: "):
            recorder = Recorder(tmp_path, 0, 4)
            recorder.progress(4, {"train/loss": 1.5, "train/steps_per_second": 9.0})
            recorder.close()

    def beside() -> None:
        process = multiprocessing.get_context("fork").Process(target=step)
        process.start()
        process.join()

    bar, line = on_a_terminal(step), on_a_terminal(beside)
    assert "| 0/4 " in bar and "step 4 of 4" not in bar
    assert re.fullmatch(r"job 3: step 4 of 4   loss 1.5000   \d+ steps/s   0:00 left\r\n", line)


def test_the_time_left_is_that_of_the_mean_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed attempt takes 100 steps in 10 s and 1000 steps in the next 10 s, which are 55 steps per second."""
    clock = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    recorder = Recorder(tmp_path, 500, 2700)
    with caplog.at_level("INFO", "sdegen"):
        for clock, step in ((10.0, 600), (20.0, 1600)):  # noqa: B007 - the lambda reads the clock
            recorder.progress(step, {"train/loss": 1.5, "train/steps_per_second": 9.0})
    recorder.close()
    assert [line.split("   ", 2)[2] for line in caplog.messages] == [
        "10 steps/s   3:30 left",
        "55 steps/s   0:20 left",
    ]


def test_a_slow_training_shows_progress_before_its_first_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps of 3 s have a line after every other step, and the loss is known from step 5 on."""
    clock = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    recorder = Recorder(tmp_path, 0, 300)
    with caplog.at_level("INFO", "sdegen"):
        for step in range(1, 7):
            clock = 3.0 * step
            if step == 5:
                recorder.progress(step, {"train/loss": 1.5})
            recorder.reached(step)
    recorder.close()
    assert caplog.messages == [
        "step   2 of 300   0.33 steps/s   14:54 left",
        "step   4 of 300   0.33 steps/s   14:48 left",
        "step   6 of 300   loss 1.5000   0.33 steps/s   14:42 left",
    ]


def test_a_reader_that_leaves_does_not_end_the_work(tmp_path: Path) -> None:
    """The reader closes the pipe, as ``| head`` does.

    The work goes on, standard error stays empty and the exit status is 0.
    """

    def work() -> None:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        os.dup2(os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        with guard.messages():
            for _ in range(3):
                guard.log.info("a line")
        (tmp_path / "done").touch()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert (tmp_path / "done").exists()
    assert (process.exitcode, (tmp_path / "err").read_text()) == (0, "")
