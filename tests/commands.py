"""Commands as a user types them: how tests run one, and what a refusal looks like."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra

for slow in ("matplotlib.pyplot", "sklearn.neighbors", "torch._dynamo", "torch.utils.tensorboard"):
    # What a command imports late, and a fork of this process has then behind it.
    importlib.import_module(slow)

ROOT = Path(__file__).parents[1]
SHORT = (
    "trainer.steps=4",
    "count=100",
    "trainer.preview_every=0",
    "figures=false",
    "sampler.steps=3",
    "network.hidden=[8]",
)


class Result(NamedTuple):
    """What a command has left."""

    returncode: int | None
    stdout: str
    stderr: str


def fresh(script: str, *arguments: str, cwd: Path) -> Result:
    """A command in a new interpreter, with one thread: as many tests run at once as there are cores."""
    line = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, env=one_thread)
    return Result(result.returncode, result.stdout, result.stderr)


def run(script: str, *arguments: str, cwd: Path, limit: float = 300) -> Result:
    """A command in a fork of this process, which has the seconds of importing behind it; killed after the limit's."""

    def child(out: Path, err: Path) -> None:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        path = ROOT / "scripts" / f"{script}.py"
        sys.argv = [str(path), *arguments]
        os.chdir(cwd)
        GlobalHydra.instance().clear()
        runpy.run_path(str(path), run_name="__main__")

    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = multiprocessing.get_context("fork").Process(target=child, args=(out, err))
        process.start()
        process.join(limit)
        process.kill()
        return Result(process.exitcode, out.read_text(), err.read_text())


def refused(result: Result, cwd: Path, *words: str) -> None:
    """One line that holds the words, a status, nothing else said and nothing left behind."""
    assert result.returncode != 0
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert not (cwd / "outputs").exists()
