"""The time before anything is computed, over Hydra's floor: the same conf with a main that does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from sdegen.core.errors import UserError
from suites.base import ROOT, Row, interleaved, last, over, row

FLOOR = """
import hydra

@hydra.main(config_path={conf!r}, config_name="train", version_base=None)
def main(config):
    pass

main()
"""
FIRST = """
import json, sys, time
import torch, torch.optim
torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()
began = time.perf_counter()
sys.argv = {argv!r}
sys.path.insert(0, {scripts!r})
from sdegen.training.loop import Training

advance = Training.advance

def stop(self, chunks):
    advance(self, chunks)
    print(json.dumps(time.perf_counter() - began), flush=True)
    import os
    os._exit(0)

Training.advance = stop
import runpy
runpy.run_path({script!r}, run_name="__main__")
"""
TRAIN = str(ROOT / "scripts" / "train.py")


def measure(asked: dict[str, list[str]], first: list[str], rounds: int) -> list[Row]:
    """Returns the waits of ``asked``, command lines of train.py without a run, and of ``first``, which starts one."""
    with tempfile.TemporaryDirectory() as folder:
        floor = Path(folder) / "floor.py"
        floor.write_text(FLOOR.format(conf=str(ROOT / "conf")))
        works = {"floor": partial(command, folder, str(floor), "--help")}
        works |= {name: partial(command, folder, TRAIN, *line) for name, line in asked.items()}
        seconds = interleaved(works, rounds)
        waited = [first_step(Path(folder) / str(i), first) for i in range(rounds)]
    rows = [row("seconds over Hydra's floor", "", name, ratios, "") for name, ratios in over(seconds, "floor").items()]
    rows.append(row("wait", "", "Hydra's floor", seconds["floor"], "s"))
    rows.append(row("wait", "", "first step, after torch", waited, "s"))
    return rows


def first_step(folder: Path, line: list[str]) -> float:
    """Returns the seconds to the first step of a run in a new folder."""
    folder.mkdir()
    code = FIRST.format(argv=["train.py", *line], scripts=str(ROOT / "scripts"), script=TRAIN)
    done = command(str(folder), "-c", code)
    if done.returncode:
        raise UserError(f"first={' '.join(line)}: {last(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def command(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; a failure does not raise."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
