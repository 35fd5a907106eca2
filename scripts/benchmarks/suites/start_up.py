"""Time before a command computes anything, divided by the floor.

The floor is the time of a Hydra program with the same configuration that does nothing.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from suites.base import ROOT, Row, command, interleaved, over, printed, row

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
    """Returns the times that a user waits.

    ``asked`` are command lines of train.py that start no run. ``first`` is a command line that starts a run.
    """
    code = FIRST.format(argv=["train.py", *first], scripts=str(ROOT / "scripts"), script=TRAIN)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        floor = folder / "floor.py"
        floor.write_text(FLOOR.format(conf=str(ROOT / "conf")))
        works = {"floor": partial(command, str(floor), "--help", folder=folder)}
        works |= {name: partial(command, TRAIN, *line, folder=folder) for name, line in asked.items()}
        seconds = interleaved(works, rounds)
        waited = []
        for i in range(rounds):
            (folder / str(i)).mkdir()
            waited.append(printed(code, f"first={' '.join(first)}", folder / str(i)))
    rows = [
        row("time divided by the time of Hydra alone", "", name, ratios, "")
        for name, ratios in over(seconds, "floor").items()
    ]
    rows.append(row("wait", "", "Hydra's floor", seconds["floor"], "s"))
    rows.append(row("wait", "", "first step, after torch", waited, "s"))
    return rows
