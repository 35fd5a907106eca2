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
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, run

from sdegen.runs import files, ledger

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
        if record.state == "begun" and files.is_claimed(sweep / name):
            found[name] = int(re.search(r"process (\d+)", record.where)[1])  # type: ignore[index]
    return found


def disturb(sweep: Path, command: subprocess.Popen[str], launcher: str, dice: random.Random, left: int) -> Counter[str]:
    """Kills or signals random jobs, at most ``left``, until the command ends; returns how often each job was ended."""
    ended: Counter[str] = Counter()
    while True:
        try:
            command.wait(dice.uniform(0.3, 3))
            return ended
        except subprocess.TimeoutExpired:
            jobs = running(sweep)
        if jobs and ended.total() < left:
            name = dice.choice(sorted(jobs))
            number = dice.choice(LAUNCHERS[launcher])
            os.kill(jobs[name], number)
            # Slurm's notice alone ends no job.
            ended[name] += not (launcher == "submitit_slurm" and number == signal.SIGTERM)


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
            pass
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
