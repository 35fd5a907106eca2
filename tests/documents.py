"""Commands and code in Markdown pages: functions that read them and run them in less time."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, fresh, run
from matplotlib.image import imsave

from sdegen.cli import arguments, page
from sdegen.cli.commands import CONFIGURED
from sdegen.config.compose import Config
from sdegen.core.schema import ANYTHING
from sdegen.metrics import features, images
from sdegen.runs import checkpoint, forecast, posteriors, session
from sdegen.runs.files import point_latest

SHORT = {
    "train": ["trainer.steps=4", "trainer.epochs=null", "trainer.preview_every=0", "count=40", "figures=false"],
    "sample": ["count=20"],
    "evaluate": ["count=20"],
}
"""Options that are added to a command, so that it takes a second and not minutes."""
SHORTER = {
    "trainer.epochs=8000": "trainer.steps=6",
    "trainer.replicas=10": "trainer.replicas=2",
    "ema=0.07": "ema=0.1",
    "weighting=uniform,variance,likelihood": "weighting=uniform,variance",
    "guidance.scale=0,1,2,3,4,8": "guidance.scale=0,2",
    "count=5000": "",
    "count=100": "count=2",
    "sampler.steps=5,10,20": "sampler.steps=5,10",
    "trainer.steps=500": "trainer.steps=4",
    "sampler.steps=50": "sampler.steps=5",
}
"""Options that would take long, and replacements for them."""
NARROW = {
    "experiment=paper/gaussian_mixture": ["sampler.steps=3"],
    "experiment=digits": ["network.channels=[8]"],
    "experiment=digits_conditional": ["network.channels=8", "network.multipliers=[1]", "network.blocks=1"],
    "network=unet": ["network.channels=8"],
    "sweep=weighting": ["experiment=paper/smile", "weighting=uniform", "seed=0", "hydra.sweep.dir=outputs/weighting"],
    "sweep=paper/grid": ["experiment=paper/grid/smile"],
}
"""Options that are added to make an experiment smaller."""
COMMAND = r"(?:PYTHONPATH=mine )?(?:python3?|pip|make|tensorboard|sdegen|torchrun|\. )"


def blocks(path: Path, language: str = "") -> list[str]:
    """Returns the blocks of code in a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    return [block for found, block in fenced if found == language]


def commands(path: Path) -> list[str]:
    """Returns the commands of a page in order, without the remarks to the right of them."""
    lines = [line for block in blocks(path) for line in block.splitlines() if re.match(COMMAND, line)]
    return [re.split(r"\s{2,}", line)[0] for line in lines]


def own_commands(path: Path) -> list[str]:
    """Returns the commands ``sdegen …`` of a page in order. Those that torchrun starts are checked in one process."""
    lines = (re.sub(r"^torchrun .* -m sdegen ", "sdegen ", line) for line in commands(path))
    return [line for line in lines if "sdegen " in line]


def reader(folder: Path) -> Path:
    """Makes the files that the pages assume a reader to have, and returns the folder."""
    np.savetxt(folder / "points.csv", np.random.default_rng(0).normal(size=(50, 2)), delimiter=",")
    (folder / "schedule.csv").write_text("t,alpha,sigma\n0,1,0\n0.5,0.6,0.6\n0.9,0.1,0.9\n1,0,1\n")
    (folder / "new.csv").write_text("0.5,1\n-1,0\n9,9\n")
    rows = [
        f"{i},{x:.2f},{2 * x:.2f},{'setosa' if i % 2 else 'virginica'}" for i, x in enumerate(np.linspace(4, 8, 60))
    ]
    (folder / "iris.csv").write_text("\n".join(["id,sepal_length,petal_length,species", *rows]))
    np.save(folder / "signals.npy", np.random.default_rng(0).normal(size=(50, 2, 32)))
    (folder / "pictures").mkdir()
    for i in range(6):
        imsave(folder / "pictures" / f"{i}.png", np.random.default_rng(i).random((8, 8, 3)))
    for name, language in itertools.product(("cluster", "extend", "guidance", "posteriors"), ("python", "yaml")):
        for block in blocks(ROOT / "docs" / f"{name}.md", language):
            path = folder / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
    return folder


def run_commands(lines: list[str], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Runs commands of the package in one folder, in order, after :func:`shortened`."""
    patch.setattr(features, "EPOCHS", (1, 1))
    patch.setattr(images, "REFERENCE", 300)
    patch.setattr(forecast, "SECONDS", 0.0)
    patch.setattr(posteriors, "OBSERVED", 1)
    patch.setenv("PYTHONPATH", "mine")
    patch.syspath_prepend(str(folder / "mine"))
    for line in lines:
        # tests/cli/test_engines.py runs sweeps on a cluster and on Ray.
        if re.search(r"hydra/launcher=(cluster|ray)|status outputs/seeds", line):
            continue
        command, arguments = shortened(line)
        # The processes of a launcher would outlive a fork.
        result = (fresh if "joblib" in line else run)(command, *arguments, cwd=folder)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"


def check_commands(lines: list[str]) -> None:
    """Composes and checks every job of the commands in order, in the working folder, and runs no job.

    A run that a later command reads gets its first checkpoint, before any step. If commands differ only in how their
    jobs run, only the jobs of the first command are checked.
    """
    # Two loggers and a launcher need packages that the lock does not have.
    needed = {"logger=mlflow ": "mlflow", "logger=wandb ": "wandb", "hydra/launcher=ray ": "ray"}
    absent = [option for option, package in needed.items() if importlib.util.find_spec(package) is None]
    lines = [line for line in lines if not any(option in f"{line} " for option in absent)]
    planned = set()
    for i, line in enumerate(lines):
        words = [word for word in shlex.split(line) if not word.startswith("PYTHONPATH=")]
        name, given = words[1], words[2:]
        if name in ("report", "status"):
            assert len(given) <= 1
        elif given == ["--help"]:
            assert page.overview(name, f"sdegen {name}")
        elif given[0] == "--help":
            command = CONFIGURED[name]
            assert page.options(command.composition(arguments.read(given)))
        elif any(word.startswith("resume=") for word in given):
            folder, *changes = arguments.read(given).values().items()
            assert checkpoint.newest(Path(str(folder[1])))[0].step == 0
            assert dict(changes).keys() <= {*session.RESUMABLE, "trust"}
        else:
            command = CONFIGURED[name]
            composition = command.composition(arguments.read(given))
            jobs = (name, *(word for word in given if not word.startswith(("hydra", "forecast="))))
            if jobs in planned:
                assert composition.compose()
                continue
            for _, config in composition.plan().jobs:
                command.check(config)
                if name == "train" and any(f"outputs/{config['name']}/latest" in later for later in lines[i:]):
                    begin(config)
            planned.add(jobs)


def begin(config: Config) -> None:
    """Writes the folder of a run with its first checkpoint, and makes it the latest run of its name."""
    folder = Path("outputs", config["name"], "0")
    if not folder.exists():
        started = session.Session(config, folder, ANYTHING)
        started.prepare("sdegen train")
        with started.writers[0].recording():
            started.save()
        point_latest(folder)


def shortened(line: str) -> tuple[str, list[str]]:
    """Returns a command and its arguments, with options that make it quick."""
    words = [word for word in shlex.split(line) if not word.startswith("PYTHONPATH=")]
    command, arguments = words[1], [SHORTER.get(word, word) for word in words[2:]]
    arguments = [word for word in arguments if word]
    if {"--help", "--cfg"} & set(arguments) or any(word.startswith("resume=") for word in arguments):
        return command, arguments
    given = {word.partition("=")[0] for word in arguments}
    own = [option for option in SHORT.get(command, []) if option.partition("=")[0] not in given]
    own += [option for word in arguments for option in NARROW.get(word, [])]
    # An experiment of the paper, a sweep and a sampler that the command names set the steps themselves.
    chosen = ("sampler", "sweep=", "experiment=paper/")
    if command in ("train", "sample") and not any(word.startswith(chosen) for word in arguments):
        own.append("sampler.steps=3")
    return command, [*arguments, *own]
