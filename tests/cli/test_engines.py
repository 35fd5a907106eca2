"""Sweeps on submitit, on a small Slurm of this file, and on Ray: jobs are killed, and nothing is lost or repeated."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import ROOT, refused, run
from hydra.core.plugins import Plugins

from sdegen.config.compose import CONF
from sdegen.runs import ledger, locks

RAY = importlib.util.find_spec("ray") is not None
SWEEP = (
    *("-m", "dataset=moons", "seed=0,1", "network.hidden=[16]", "trainer.steps=3000", "trainer.checkpoint_every=100"),
    *("trainer.preview_every=0", "trainer.threads=1", "sampler.steps=3", "count=100", "figures=false"),
)
LAUNCHERS = {
    "submitit_local": (signal.SIGKILL, signal.SIGUSR2),
    "submitit_slurm": (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2),
    "ray": (signal.SIGKILL, signal.SIGTERM),
}
"""Launchers, and the signals that their jobs get. Slurm sends SIGTERM and SIGUSR2 together."""
KILLS = 4

SLURM = {
    # Starts the tasks of the array, each of which is repeated when it is requeued, or when its machine is lost.
    "sbatch": """
import re, subprocess, sys
from pathlib import Path
folder, script = Path(sys.argv[0]).parents[1], sys.argv[1]
text = Path(script).read_text()
(folder / "script").write_text(text)
last = re.search(r"--array=0-(\\d+)%", text)
for task in range(int(last[1]) + 1):
    line = [sys.executable, str(folder / "bin" / "task"), script, str(task)]
    subprocess.Popen(line, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print("Submitted batch job 7")
""",
    "task": """
import os, subprocess, sys
from pathlib import Path
folder, script, task = Path(sys.argv[0]).parents[1], sys.argv[1], sys.argv[2]
own = {"SLURM_JOB_ID": f"10{task}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": task, "SLURM_NTASKS": "1"}
asked = folder / f"requeue-7_{task}"
while True:
    status = subprocess.run(["bash", script], env={**os.environ, **own}).returncode
    if asked.exists():
        asked.unlink()
    elif status != 137:
        break
(folder / f"ended-7_{task}").touch()
""",
    "scontrol": """
import sys
from pathlib import Path
(Path(sys.argv[0]).parents[1] / f"requeue-{sys.argv[2]}").touch()
""",
    "srun": """
import os, sys
own = {"%A": os.environ["SLURM_ARRAY_JOB_ID"], "%a": os.environ["SLURM_ARRAY_TASK_ID"], "%t": "0"}
name = sys.argv[sys.argv.index("--output") + 1]
for key, value in own.items():
    name = name.replace(key, value)
os.makedirs(os.path.dirname(name), exist_ok=True)
out = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(out, 1), os.dup2(out, 2)
command = sys.argv[sys.argv.index("--output") + 2 :]
os.execvp(command[0], command)
""",
    "sacct": """
import sys
from pathlib import Path
folder = Path(sys.argv[0]).parents[1]
print("JobID|State|NodeList")
for task in range(2):
    print(f"7_{task}|{'FAILED' if (folder / f'ended-7_{task}').exists() else 'RUNNING'}|node1")
""",
}
"""Programs of a Slurm with one machine."""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the programs of Slurm on the path, and returns their folder."""
    (tmp_path / "slurm" / "bin").mkdir(parents=True)
    for name, body in SLURM.items():
        (tmp_path / "slurm" / "bin" / name).write_text(f"#!{sys.executable}\n{body.lstrip()}")
        (tmp_path / "slurm" / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'slurm' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "slurm"


def started(cwd: Path, launcher: str) -> subprocess.Popen[str]:
    """Starts the sweep; its output is added to the file ``said``."""
    line = [sys.executable, "-m", "sdegen", "train", *SWEEP, "hydra.sweep.dir=outputs/sweep"]
    own = ["hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray" else []
    with (cwd / "said").open("a") as out:
        return subprocess.Popen(
            [*line, f"hydra/launcher={launcher}", *own],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=out,
            text=True,
        )


def running(sweep: Path) -> dict[str, int]:
    """Returns the processes of the jobs that run now."""
    found = {}
    for name, record in ledger.read(sweep).items():
        if record.state == "begun" and locks.is_claimed(sweep / name):
            found[name] = int(re.search(r"process (\d+)", record.where)[1])  # type: ignore[index]
    return found


def disturb(sweep: Path, command: subprocess.Popen[str], launcher: str, dice: random.Random, left: int) -> Counter[str]:
    """Ends at most ``left`` processes of random jobs before the command ends; returns how often each job was ended."""
    ended: dict[int, str] = {}
    while True:
        try:
            command.wait(dice.uniform(0.3, 3))
            return Counter(ended.values())
        except subprocess.TimeoutExpired:
            jobs = {process: name for name, process in running(sweep).items() if process not in ended}
        if jobs and len(ended) < left:
            process = dice.choice(sorted(jobs))
            number = dice.choice(LAUNCHERS[launcher])
            os.kill(process, number)
            # Slurm's notice alone ends no job.
            if launcher != "submitit_slurm" or number != signal.SIGTERM:
                ended[process] = jobs[process]


ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(name == "ray" and not RAY, reason="needs ray")) for name in LAUNCHERS
]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ENGINES)
def test_jobs_that_are_killed_at_random_end_as_if_nothing_had_happened(
    launcher: str, tmp_path: Path, slurm: Path
) -> None:
    assert run("train", *SWEEP, "hydra.sweep.dir=outputs/whole", cwd=tmp_path).returncode == 0
    whole, sweep, dice = tmp_path / "outputs" / "whole", tmp_path / "outputs" / "sweep", random.Random(launcher)
    ended: Counter[str] = Counter()
    while True:
        command = started(tmp_path, launcher)
        ended += disturb(sweep, command, launcher, dice, KILLS - ended.total())
        while running(sweep):
            # The jobs of submitit outlive a command whose job was killed.
            threading.Event().wait(0.1)
        if command.returncode == 0:
            break
        said = (tmp_path / "said").read_text()
        assert command.returncode == 2 and "a job was killed or lost" in said.splitlines()[-1], said
    assert ended.total() == KILLS
    lines = [json.loads(line) for line in (sweep / ledger.NAME).read_text().splitlines()]
    begun, done = (Counter(line["job"] for line in lines if line["state"] == state) for state in ("begun", "done"))
    assert done == dict.fromkeys(["0-moons", "1-moons"], 1)
    assert begun == done + ended
    for name in done:
        (first,), (second,) = (list((root / name).glob("samples/*/samples.npz")) for root in (whole, sweep))
        assert np.array_equal(np.load(first)["x"], np.load(second)["x"])
    # The same command with another launcher finds nothing to do.
    before = (sweep / ledger.NAME).read_bytes()
    again = run("train", *SWEEP, "hydra.sweep.dir=outputs/sweep", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count(", from an earlier command") == 2
    assert (sweep / ledger.NAME).read_bytes() == before
    assert run("status", "outputs/sweep", cwd=tmp_path).stdout.splitlines()[0] == "outputs/sweep: 2 done"


MISTAKES = {
    (
        "hydra/launcher=submitit_local",
    ): "hydra/launcher=submitit_local: launchers run the jobs of a sweep: add -m to the command",
    ("-m", "hydra/launcher=submitit_slurm"): "hydra/launcher=submitit_slurm: this machine has no srun: ",
    ("-m", "hydra/launcher=submitit_slrm"): "no such choice; did you mean hydra/launcher=submitit_slurm?",
    (
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.gpus_per_nod=1",
    ): "hydra.launcher.gpus_per_nod: no such option; did you mean hydra.launcher.gpus_per_node?",
    (
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.timeout_min=4h",
    ): "hydra.launcher.timeout_min: Value '4h' of type 'str' could not be converted to Integer",
}


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES.items(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_mistake_about_a_launcher_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(run("train", "experiment=smile", *arguments, cwd=tmp_path), tmp_path, message)


@pytest.mark.parametrize(("choice", "extra"), [("ray", "ray"), ("submitit_local", "submitit"), ("joblib", "parallel")])
def test_a_launcher_that_is_not_installed_names_its_extra(
    choice: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Plugins.instance().class_name_to_class
    target = yaml.safe_load((CONF / "hydra" / "launcher" / f"{choice}.yaml").read_text())["_target_"]
    package = target.split(".")[1].replace("_", "-")
    monkeypatch.setattr(Plugins.instance(), "class_name_to_class", {k: v for k, v in known.items() if k != target})
    result = run("train", "-m", "experiment=smile", f"hydra/launcher={choice}", cwd=tmp_path)
    refused(result, tmp_path, f'hydra/launcher={choice}: needs the package {package}: pip install "sdegen[{extra}]"')


def test_slurm_gets_the_options_in_the_script_of_an_array(tmp_path: Path, slurm: Path) -> None:
    """The script of sbatch has the options of the YAML file, and the command reports that Slurm refused it."""
    (slurm / "bin" / "sbatch").write_text('#!/bin/sh\ncp "$1" script\necho "no such partition" >&2\nexit 1\n')
    options = ("partition=gpu", "gpus_per_node=2", "timeout_min=30", "mem_gb=8", "signal_delay_s=60")
    own = [f"hydra.launcher.{option}" for option in options]
    line = (
        "-m",
        "experiment=smile",
        "seed=0,1,2",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.array_parallelism=2",
    )
    result = run("train", *line, *own, cwd=tmp_path)
    assert result.returncode == 2
    *_, message = result.stderr.splitlines()
    assert message.startswith("hydra/launcher=submitit_slurm: could not start the jobs: no such partition: ")
    given = set(re.findall(r"^#SBATCH --(\S+)", (tmp_path / "script").read_text(), re.MULTILINE))
    assert given >= {
        *("array=0-2%2", "gpus-per-node=2", "job-name=sdegen-train", "mem=8GB", "partition=gpu", "requeue"),
        *("signal=USR2@60", "time=30", "nodes=1", "ntasks-per-node=1", "open-mode=append"),
    }
