"""Time that a user waits for anything but the computation.

The time before a help text or an error message is divided by the time of a Hydra program with the same configuration
that does nothing. The time from a command to the checked configuration and the run's folder is divided by the time of
``import torch`` alone. Of a second sampling of a run, the time beside the start and the sampling is measured; and the
time of a sweep over several samplers is divided by the time of one of them.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from sdegen.core.errors import UserError
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
BEGUN = """
import os, sys
sys.argv = {argv!r}
from sdegen.cli import commands

def stop(config, job):
    from sdegen.runs import session
    from sdegen.runs.writer import Writer

    begin = Writer.begin

    def begun(self, command):
        begin(self, command)
        os._exit(0)

    Writer.begin = begun
    session.train(config, job.folder)

commands.CONFIGURED["train"] = commands.CONFIGURED["train"]._replace(task=stop)
from sdegen.cli.main import main
main("train")
"""
BESIDE = """
import json, sys, time
sys.argv = {argv!r}
from sdegen.cli.main import main
from sdegen.runs import results

def timed(name):
    work = getattr(results, name)

    def wrapped(*arguments, **options):
        began = time.perf_counter()
        found = work(*arguments, **options)
        seconds[name] = time.perf_counter() - began
        return found

    setattr(results, name, wrapped)

seconds = {{}}
timed("write")
timed("_drawn")
main("sample")
print(json.dumps(seconds["write"] - seconds["_drawn"]))
"""
TRAIN, SAMPLE = (str(ROOT / "scripts" / f"{name}.py") for name in ("train", "sample"))


def measure(
    asked: dict[str, list[str]], first: list[str], sampled: list[str], samplers: list[str], rounds: int
) -> list[Row]:
    """Returns the times that a user waits.

    ``asked`` are command lines of train.py that start no run. ``first`` is a command line that starts a run.
    ``sampled`` is a command line that trains a run, which is then sampled with each of ``samplers``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return [*_start(asked, first, rounds, folder), *_sampling(sampled, samplers, rounds, folder)]


def _start(asked: dict[str, list[str]], first: list[str], rounds: int, folder: Path) -> list[Row]:
    code = FIRST.format(argv=["train.py", *first], scripts=str(ROOT / "scripts"), script=TRAIN)
    floor = folder / "floor.py"
    floor.write_text(FLOOR.format(conf=str(ROOT / "conf")))
    works = {"floor": partial(command, str(floor), "--help", folder=folder)}
    works |= {name: partial(command, TRAIN, *line, folder=folder) for name, line in asked.items()}
    seconds = interleaved(works, rounds)
    begun = folder / "begun.py"
    begun.write_text(BEGUN.format(argv=["train.py", *first, "hydra.run.dir=${now:%f}"]))
    imports = interleaved(
        {
            "import torch": partial(command, "-c", "import torch"),
            "to the run's folder": partial(command, str(begun), folder=folder),
        },
        rounds,
    )
    waited = []
    for i in range(rounds):
        (folder / str(i)).mkdir()
        waited.append(printed(code, f"first={' '.join(first)}", folder / str(i)))
    rows = [
        row("time divided by the time of Hydra alone", "", name, ratios, "")
        for name, ratios in over(seconds, "floor").items()
    ]
    for name, ratios in over(imports, "import torch").items():
        rows.append(row("time divided by the time of import torch", "", name, ratios, ""))
    rows.append(row("wait", "", "Hydra's floor", seconds["floor"], "s"))
    return [*rows, row("wait", "", "first step, after torch", waited, "s")]


def _sampling(sampled: list[str], samplers: list[str], rounds: int, folder: Path) -> list[Row]:
    done = command(TRAIN, *sampled, "hydra.run.dir=sampled", folder=folder)
    if done.returncode:
        raise UserError(f"sampled={' '.join(sampled)}: {done.stderr.strip().splitlines()[-1]}")
    code = BESIDE.format(argv=["sample.py", "run=sampled", f"sampler={samplers[0]}"])
    beside = [printed(code, f"samplers={samplers[0]}", folder) for _ in range(rounds)]
    lines = {"one": [f"sampler={samplers[0]}"], "all": ["-m", f"sampler={','.join(samplers)}"]}
    works = {name: partial(command, SAMPLE, "run=sampled", *line, folder=folder) for name, line in lines.items()}
    (ratios,) = over(interleaved(works, rounds), "one").values()
    return [
        row("wait", "", "second sampling, beside start and sampler", beside, "s"),
        row("time divided by the time of one sampler", "", f"{len(samplers)} samplers", ratios, ""),
    ]
