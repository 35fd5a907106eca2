"""Functions that run commands as a user types them, and check that a command is refused."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra

from sdegen.config.compose import composed
from sdegen.runs.files import resolve

for slow in (
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "matplotlib.patheffects",
    "matplotlib.pyplot",
    "sdegen.cli.commands",
    "sdegen.figures",
    "sklearn.datasets",
    "sklearn.neighbors",
    "torch._dynamo",
    "torch.utils.tensorboard",
):
    # Commands import these modules late. Import them here once, so that each fork of this process has them.
    importlib.import_module(slow)
# The first composition fills the caches of the parser of overrides, which a fork would fill each time.
composed("train", ["dataset=moons", "network.hidden=[8]"])

ROOT = Path(__file__).parents[1]
SHORT = (
    "trainer.steps=4",
    "count=100",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=3",
    "network.hidden=[8]",
)


def newest(folder: Path, name: str) -> Path:
    """The folder of the newest run of a name, below the folder in which a command ran."""
    return resolve(folder / "outputs" / name / "latest")


class Result(NamedTuple):
    """Exit status and output of a finished command."""

    returncode: int | None
    stdout: str
    stderr: str


def fresh(script: str, *arguments: str, cwd: Path) -> Result:
    """Runs a command in a new interpreter with one thread, since as many tests run at once as there are cores."""
    line = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, env=one_thread)
    return Result(result.returncode, result.stdout, result.stderr)


def begin(
    script: str, *arguments: str, cwd: Path, out: int, err: int, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Starts a command in a fork of this process, which has already imported the slow modules.

    Args:
        script: name of the script.
        arguments: arguments of the command.
        cwd: working folder.
        out: file descriptor for the standard output.
        err: file descriptor for the standard error.
        environment: additional environment variables.
    """

    def child() -> None:
        os.environ.update(environment or {})
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        path = ROOT / "scripts" / f"{script}.py"
        sys.argv = [str(path), *arguments]
        os.chdir(cwd)
        GlobalHydra.instance().clear()
        runpy.run_path(str(path), run_name="__main__")

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def run(script: str, *arguments: str, cwd: Path, limit: float = 300) -> Result:
    """Runs a command in a fork of this process, and kills the fork after ``limit`` seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = begin(script, *arguments, cwd=cwd, out=out.fileno(), err=err.fileno())
        process.join(limit)
        process.kill()
        process.join()
        for file in (out, err):
            file.seek(0)
        return Result(process.exitcode, out.read(), err.read())


def several(count: int, script: str, *arguments: str, cwd: Path, limit: float = 300) -> list[Result]:
    """Runs a command in several processes, which find each other as those of torchrun do."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with contextlib.ExitStack() as stack:
        started = []
        for rank in range(count):
            out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)}
            # A placeholder lets the processes have different arguments.
            line = [argument.replace("{rank}", str(rank)) for argument in arguments]
            files = {"out": out.fileno(), "err": err.fileno()}
            started.append((begin(script, *line, cwd=cwd, **files, environment=own), out, err))
        results = []
        for process, out, err in started:
            process.join(limit)
            process.kill()
            process.join()
            for file in (out, err):
                file.seek(0)
            results.append(Result(process.exitcode, out.read(), err.read()))
        return results


def interrupted(script: str, *arguments: str, cwd: Path, words: str) -> Result:
    """Runs a command and sends SIGINT, as Ctrl-C does, when a line of standard output contains ``words``."""
    read, write = os.pipe()
    with os.fdopen(read) as out, tempfile.TemporaryFile("w+") as err:
        process = begin(script, *arguments, cwd=cwd, out=write, err=err.fileno())
        os.close(write)
        seen = "".join(itertools.takewhile(lambda line: words not in line, out))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        seen += out.read()
        process.join()
        err.seek(0)
        return Result(process.exitcode, seen, err.read())


def refused(result: Result, cwd: Path, *words: str) -> None:
    """Asserts that a command failed with one line that contains the words, and left no other output and no files."""
    assert result.returncode != 0
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert not (cwd / "outputs").exists()
