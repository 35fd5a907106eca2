"""Runs that are killed or interrupted at any moment, and then resumed, end like undisturbed runs."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdegen.config.compose import Config, composed
from sdegen.core.errors import Stopped, UserError
from sdegen.runs import checkpoint, results, session
from sdegen.training.loop import Training

ROOT = Path(__file__).parents[2]
OPTIONS = (
    "dataset=smile",
    "network.hidden=[16]",
    "trainer.steps=1500",
    "trainer.batch_size=32",
    "trainer.checkpoint_every=70",
    "trainer.log_every=40",
    "trainer.preview_every=200",
    "trainer.keep=2",
    "optimizer.decay=cosine",
    "sampler.steps=20",
    "count=200",
)
PLAIN = (*OPTIONS, "figures=false")
PROCESSES = multiprocessing.get_context("fork")

OWN = "users.Regular"
"""Marker among the options. It replaces the network by this class, which has dropout and batch normalisation."""

OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.listdir"}
"""Operations on files, by the names of Python's audit events."""


def kill_at(operation: int, folder: Path) -> None:
    """Kills this process before the operation with the number ``operation`` on files of a folder. 0 means never."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and arguments and str(arguments[0]).startswith(str(folder)):
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@functools.cache
def configuration(options: tuple[str, ...]) -> Config:
    config = composed("train", [option for option in options if option != OWN])
    return config | ({"network": {"_target_": OWN}} if OWN in options else {})


def work(folder: Path, config: Config, operation: int) -> None:
    """Begins or resumes a run in this process, which is killed as in :func:`kill_at`."""
    torch.set_num_threads(1)
    kill_at(operation, folder)
    if any(folder.glob("checkpoints/*.pt")):
        session.resume(folder, {}, ["users"])
    else:
        session.train(config, folder)


def started(folder: Path, options: tuple[str, ...], operation: int = 0) -> Any:  # noqa: ANN401
    process = PROCESSES.Process(target=work, args=(folder, configuration(options), operation))
    process.start()
    return process


class Left(NamedTuple):
    """Content of the folder of a finished run, without times."""

    tensors: dict[str, torch.Tensor]
    curves: dict[str, list[tuple[int, float]]]
    table: list[str]
    pictures: dict[str, list[int]]
    samples: np.ndarray
    checkpoints: list[str]
    metrics: str


def left(folder: Path) -> Left:
    tensors = {}
    for which in ("last", "best"):
        saved = checkpoint.read(folder, which)  # type: ignore[arg-type]
        parts = {"w": saved.weights, "e": saved.ema, "o": saved.optimizer["state"].get(0, {}), "h": saved.history}
        tensors |= {f"{which} {part} {name}": x for part, of in parts.items() for name, x in of.items()}
        tensors |= {f"{which} curve {name}": x for name, x in saved.curve.items()}
        tensors[f"{which} step"] = torch.tensor([saved.step, saved.held_out or 0.0], dtype=torch.float64)
    for path in sorted((folder / "averages").glob("*")):
        averages = torch.load(path, weights_only=True)["averages"]
        tensors |= {f"{path.name} {width} {name}": x for width, state in averages.items() for name, x in state.items()}
    events = EventAccumulator(str(folder), {"scalars": 0, "images": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "train/steps_per_second"]
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    table = [line for line in (folder / "scalars.csv").read_text().splitlines() if "steps_per_second" not in line]
    pictures = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
    # A run that is killed after its samples and before its last file draws the samples again.
    samples, *again = [np.load(path)["x"] for path in (folder / "samples").glob("*/samples.npz")]
    assert all(np.array_equal(samples, other) for other in again)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return Left(tensors, curves, table, pictures, samples, names, (folder / "metrics.json").read_text())


def assert_same(found: Left, expected: Left) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, value in expected.tensors.items():
        assert torch.equal(found.tensors[name], value), name
    assert found.curves == expected.curves
    assert found.table == expected.table
    assert found.pictures == expected.pictures
    assert np.array_equal(found.samples, expected.samples)
    assert found.checkpoints == expected.checkpoints
    assert found.metrics == expected.metrics


def reference(folder: Path, options: tuple[str, ...]) -> Left:
    """Return the content of a run that is not disturbed."""
    process = started(folder, options)
    process.join()
    assert process.exitcode == 0
    return left(folder)


def kill(root: Path, options: tuple[str, ...], kills: int, dice: random.Random) -> None:
    """Kills runs at random moments, ``kills`` times in total, and resumes each run until it ends."""
    expected, done, runs = reference(root / "whole", options), 0, 0
    while done < kills:
        folder = root / str(runs)
        while not (folder / "metrics.json").exists():
            process = started(folder, options)
            process.join(dice.uniform(0, 3) if done < kills else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                done += 1
            else:
                assert process.exitcode == 0
        assert_same(left(folder), expected)
        runs += 1


def test_a_run_that_is_killed_and_resumed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    kill(tmp_path, PLAIN, 3, random.Random(0))


IMAGES = (
    "dataset=digits",
    "network=scorenet",
    "network.channels=[8,8]",
    "trainer.steps=60",
    "trainer.checkpoint_every=9",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        (OWN, "trainer.widths=[0.05,0.1]"),
        ("trainer.replicas=3",),
        ("objective=sliced", "network.activation=silu"),
        IMAGES,
    ],
)
def test_every_kind_of_training_may_be_killed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Each kind of run is killed ten times."""
    own = [option for option in OPTIONS if options != IMAGES or not option.startswith(("dataset", "network"))]
    kill(tmp_path, (*own, *options), 10, random.Random(str(options)))


SHORT = (*PLAIN, "trainer.steps=20", "trainer.checkpoint_every=8", "trainer.log_every=5", "trainer.preview_every=7")
SHORT += ("trainer.widths=[0.05,0.1]",)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Returns the content of an undisturbed run with the options ``SHORT``."""
    return reference(tmp_path_factory.mktemp("short") / "run", SHORT)


@pytest.mark.parametrize(("apart", "figures"), [(47, "false"), pytest.param(1, "true", marks=pytest.mark.slow)])
def test_a_run_may_be_killed_at_any_operation_on_a_file(tmp_path: Path, short: Left, apart: int, figures: str) -> None:
    """Operations write checkpoints, pictures and metrics. The test kills a run at one in ``apart`` operations."""
    options, operation, killed = (*SHORT, f"figures={figures}"), 1, 0
    while True:
        folder = tmp_path / str(operation)
        process = started(folder, options, operation)
        process.join()
        if not process.exitcode:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        if not (folder / "metrics.json").exists():
            process = started(folder, options)
            process.join()
            assert process.exitcode == 0
        assert_same(left(folder), short)
        operation += apart
    assert killed > (2 if apart > 1 else 100)


@contextlib.contextmanager
def signalled(at: int, number: int, times: int = 1) -> Iterator[None]:
    """Sends a signal to this process during step ``at``, while the context is open."""
    advance = Training.advance

    def interrupted(self: Training, chunks: list[Any]) -> None:
        if self.step == at:
            for _ in range(times):
                signal.raise_signal(number)
        advance(self, chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "advance", interrupted)
        yield


def test_a_signal_saves_and_reports_how_to_continue(tmp_path: Path, short: Left) -> None:
    """One run gets four signals, in the middle of blocks of noise, epochs, log intervals and checkpoint intervals."""
    folder, numbers = tmp_path / "run", (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    for at, number in zip((2, 5, 10, 12), numbers, strict=True):
        before = signal.getsignal(number)
        with signalled(at, number), pytest.raises(Stopped) as stop:
            if folder.exists():
                session.resume(folder, {})
            else:
                session.train(composed("train", SHORT), folder)
        command = f"sdegen train resume={folder}"
        assert str(stop.value) == f"stopped by {number.name}, saved at step {at + 1}; continue with {command}"
        assert stop.value.number == number and signal.getsignal(number) == before
    session.resume(folder, {})
    assert_same(left(folder), short)


def test_a_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    with signalled(11, signal.SIGTERM, 2), pytest.raises(Stopped, match="SIGTERM, saved at step 8; continue"):
        session.train(composed("train", SHORT), tmp_path / "run")
    assert checkpoint.read(tmp_path / "run").step == 8


@contextlib.contextmanager
def a_launcher() -> Iterator[list[int]]:
    """Handles signals as submitit does: SIGTERM has no effect, and SIGUSR2 ends the process. Yields the signals."""
    came: list[int] = []

    def requeue(number: int, frame: object) -> None:
        came.append(number)
        raise SystemExit(-1)

    before = [
        (signal.SIGTERM, signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))),
        (signal.SIGUSR2, signal.signal(signal.SIGUSR2, requeue)),
    ]
    try:
        yield came
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def test_the_launcher_decides_after_the_step_is_saved(tmp_path: Path, short: Left) -> None:
    """After SIGTERM alone the training goes on. After SIGTERM and SIGUSR2 together it is saved once and left."""
    folder = tmp_path / "run"
    with a_launcher() as came:
        with signalled(5, signal.SIGTERM):
            with signalled(11, signal.SIGUSR2), signalled(11, signal.SIGTERM), pytest.raises(SystemExit):
                session.train(composed("train", SHORT), folder)
            assert came == [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2]
            assert checkpoint.read(folder).step == 12 and checkpoint.has(folder, 6)
        session.resume(folder, {})
    found = left(folder)
    # The checkpoint of step 6 is kept as a regular one.
    assert_same(found._replace(checkpoints=short.checkpoints), short)


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    """No other process can start or resume a run in the folder, until the first process ends or is killed."""
    process = started(tmp_path / "run", PLAIN)
    while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        assert process.is_alive()
    for again in (lambda: session.train(composed("train", SHORT), tmp_path / "run"),
                  lambda: session.resume(tmp_path / "run", {})):  # fmt: skip
        with pytest.raises(UserError, match="another process is training there: wait for it, or stop it"):
            again()
    process.kill()
    process.join()
    session.resume(tmp_path / "run", {})
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_run_that_was_killed_after_its_samples_has_them_once(tmp_path: Path) -> None:
    run = session.train(composed("train", SHORT), tmp_path / "run")
    (first,) = (tmp_path / "run" / "samples").glob("*/samples.npz")
    drawn = np.load(first)["x"]
    # A later command draws the same samples.
    own = results.write(run, len(drawn), seed=run.config["seed"], figures=False).folder
    # The file of the metrics is the last one.
    (tmp_path / "run" / "metrics.json").unlink()
    session.resume(tmp_path / "run", {})
    again = {path.parent: np.load(path)["x"] for path in (tmp_path / "run" / "samples").glob("*/samples.npz")}
    assert len(again) == 2 and own in again
    assert all(np.array_equal(x, drawn) for x in again.values())


STUBS = {"torchrun": f'shift; exec {sys.executable} "$@"', "scontrol": 'echo "$@" > asked'}
"""Replacements for the commands of the script for Slurm in docs/cluster.md."""


@pytest.mark.slow
def test_the_job_of_the_documentation_is_requeued_until_it_is_done(tmp_path: Path) -> None:
    """As with Slurm, the shell of the script gets the signal. Then the script runs again."""
    (script,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "bin").mkdir()
    for name, body in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    assert "experiment=digits" in script
    script = script.replace("experiment=digits", "experiment=smile trainer.epochs=300 figures=false")
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **own, "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True, "stdout": subprocess.PIPE}
    job = subprocess.Popen(["sh", "-c", script], start_new_session=True, stderr=subprocess.PIPE, **options)
    assert job.stdout is not None
    while "training" not in (line := job.stdout.readline()):
        assert job.poll() is None, line
    os.kill(job.pid, signal.SIGUSR1)
    _, said = job.communicate()
    assert re.search(r"stopped by SIGTERM, saved at step \d+; continue with", said), said
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    (tmp_path / "asked").unlink()
    done = subprocess.run(["sh", "-c", script], stderr=subprocess.PIPE, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "steps 0 to" not in done.stdout and (tmp_path / "outputs" / "seeds" / "2" / "metrics.json").exists()
    assert "seed: 2\n" in (tmp_path / "outputs" / "seeds" / "2" / "config.yaml").read_text()
    assert not (tmp_path / "asked").exists()
