"""Time that a user waits for anything but the computation.

The time before a help text or an error message is divided by the time of a Hydra program with the same configuration
that does nothing. The time from a command to the checked configuration and the run's folder is divided by the time of
``import torch`` alone. Of a second sampling of a run, the time beside the start and the sampling is measured; and the
time of a sweep over several samplers is divided by the time of one of them, with the steps of each sampler and with
equally many steps.

Commands that are compared run in turn. The CPU time stands beside the time, because other work on the machine does not
change it much, and ``import torch`` of the same rounds stands beside both.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
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
from sdegen.cli import train

def stop(config, job):
    from sdegen.runs import session
    from sdegen.runs.writer import Writer

    begin = Writer.begin

    def begun(self, command):
        begin(self, command)
        os._exit(0)

    Writer.begin = begun
    session.train(config, job.folder)

train.COMMAND = train.COMMAND._replace(task=stop)
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
        began = time.perf_counter(), time.process_time()
        found = work(*arguments, **options)
        seconds[name] = time.perf_counter() - began[0], time.process_time() - began[1]
        return found

    setattr(results, name, wrapped)

seconds = {{}}
timed("write")
timed("_drawn")
main("sample")
print(json.dumps([whole - part for whole, part in zip(seconds["write"], seconds["_drawn"])]))
"""
IMPORT = partial(command, "-c", "import torch")
TRAIN, SAMPLE = (str(ROOT / "scripts" / f"{name}.py") for name in ("train", "sample"))


def measure(
    asked: dict[str, list[str]], first: list[str], sampled: list[str], samplers: list[str], steps: int, rounds: int
) -> list[Row]:
    """Returns the times that a user waits.

    ``asked`` are command lines of train.py that start no run. ``first`` is a command line that starts a run.
    ``sampled`` is a command line that trains a run, which is then sampled with each of ``samplers``: with their own
    steps, and with ``steps`` steps.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return [*_start(asked, first, rounds, folder), *_sampling(sampled, samplers, steps, rounds, folder)]


def _start(asked: dict[str, list[str]], first: list[str], rounds: int, folder: Path) -> list[Row]:
    code = FIRST.format(argv=["train.py", *first], scripts=str(ROOT / "scripts"), script=TRAIN)
    floor = folder / "floor.py"
    floor.write_text(FLOOR.format(conf=str(ROOT / "conf")))
    works = {"floor": partial(command, str(floor), "--help", folder=folder)}
    works |= {name: partial(command, TRAIN, *line, folder=folder) for name, line in asked.items()}
    seconds = interleaved(works, rounds)
    begun = folder / "begun.py"
    begun.write_text(BEGUN.format(argv=["train.py", *first, "hydra.run.dir=${now:%f}"]))
    imports = _timed(
        {"import torch": IMPORT, "to the run's folder": partial(command, str(begun), folder=folder)}, rounds
    )
    waited = []
    for i in range(rounds):
        (folder / str(i)).mkdir()
        waited.append(printed(code, f"first={' '.join(first)}", folder / str(i)))
    rows = [
        row("time divided by the time of Hydra alone", "", name, ratios, "")
        for name, ratios in over(seconds, "floor").items()
    ]
    for kind, taken in imports.items():
        for name, ratios in over(taken, "import torch").items():
            rows.append(row(f"{kind} divided by the {kind} of import torch", "", name, ratios, ""))
    rows.append(row("wait", "", "Hydra's floor", seconds["floor"], "s"))
    return [*rows, row("wait", "", "first step, after torch", waited, "s")]


def _sampling(sampled: list[str], samplers: list[str], steps: int, rounds: int, folder: Path) -> list[Row]:
    done = command(TRAIN, *sampled, "hydra.run.dir=sampled", folder=folder)
    if done.returncode:
        raise UserError(f"sampled={' '.join(sampled)}: {done.stderr.strip().splitlines()[-1]}")
    code = BESIDE.format(argv=["sample.py", "run=sampled", f"sampler={samplers[0]}"])
    beside = [printed(code, f"samplers={samplers[0]}", folder) for _ in range(rounds)]
    one, many = f"{samplers[0]}, alone", f"{len(samplers)} samplers"
    sweep = ["-m", f"sampler={','.join(samplers)}"]
    lines = {
        one: [f"sampler={samplers[0]}"],
        many: sweep,
        f"{many}, {steps} steps each": [*sweep, f"sampler.steps={steps}"],
    }
    works = {name: partial(command, SAMPLE, "run=sampled", *line, folder=folder) for name, line in lines.items()}
    taken = _timed({"import torch": IMPORT, **works}, rounds)
    rows = []
    for (kind, seconds), own in zip(taken.items(), zip(*beside, strict=True), strict=True):
        rows.append(row(f"wait, {kind}", "", "import torch", seconds.pop("import torch"), "s"))
        rows.append(row(f"wait, {kind}", "", "second sampling, beside start and sampler", own, "s"))
        rows.append(row(f"wait, {kind}", "", one, seconds[one], "s"))
        for name, ratios in over(seconds, one).items():
            rows.append(row(f"{kind} divided by the {kind} of one sampler", "", name, ratios, ""))
    return rows


def _timed(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns the time and the CPU time of each command in each round, by the kind of time and the command."""
    used: dict[str, list[float]] = {name: [] for name in works}

    def watched(name: str) -> None:
        before = _children()
        works[name]()
        used[name].append(_children() - before)

    taken = interleaved({name: partial(watched, name) for name in works}, rounds)
    return {"time": taken, "CPU time": {name: seconds[1:] for name, seconds in used.items()}}


def _children() -> float:
    """Returns the CPU time of all commands that have ended."""
    times = os.times()
    return times.children_user + times.children_system
