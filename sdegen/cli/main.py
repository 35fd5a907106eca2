"""The program ``sdegen``, which runs the command that its first argument names."""

from __future__ import annotations

import os
import sys
from glob import escape, glob
from pathlib import Path

from sdegen import __version__
from sdegen.cli import commands
from sdegen.cli.guard import fail, guard
from sdegen.core import processes

COMMANDS = {
    "train": "train a model, then sample, measure and draw",
    "sample": "draw samples from a trained run",
    "evaluate": "compute likelihoods of a trained run and of your points, measure samples, or interpolate",
    "calibrate": "measure which options suit your data",
    "verify": "check an SDE and a sampler against exact answers",
    "status": "show which jobs and runs are done, running, waiting or failed",
    "report": "write one page about the runs in a folder",
    "benchmark": "measure speed and quality; in a checkout only",
}


SPINS = "1000"
"""Number of turns for which a thread waits actively before it sleeps. GNU's OpenMP takes as many if cores are few."""


def main(name: str = "") -> None:
    """Run a command with the arguments of this process.

    Args:
        name: name of the command; empty if the first argument names it.
    """
    limit_spinning()
    path, arguments = Path(sys.argv[0]), sys.argv[1:]
    program = f"python {path}" if path.suffix == ".py" else path.name
    if path.name == "__main__.py":
        program = "python -m sdegen"
    if (size := processes.started()) > 1:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        machines = f" --nnodes={size // local}" if size > local else ""
        program = program.replace("python", f"torchrun{machines} --nproc-per-node={local}", 1)
    if not name:
        name, *arguments = _completed(arguments) if arguments else ["--help"]
        if name in ("-h", "--help"):
            print(overview(program))
            return
        if name == "--version":
            print(f"sdegen {__version__}")
            return
        if name not in COMMANDS:
            fail(f"{name}: no such command; choose from {', '.join(COMMANDS)}")
        program = f"{program} {name}"
    guard(lambda: processes.run(lambda: commands.RUN[name](program, arguments)))


def limit_spinning() -> None:
    """Shorten the active waiting of OpenMP's threads for each other, unless the user's environment sets it.

    By default, a thread waits actively for milliseconds. If another program takes the core of the thread that it waits
    for, all of this time is lost, at every operation. Two threads and one busy core: a step of the smile takes 2 to
    33 ms by default, 2 ms with this value, and 5 ms with 3000 (U-Net, several busy programs: 7.5 s, 0.6 s and 0.9 s).
    On quiet cores, it takes 0.68, 0.82 and 0.73 ms.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # The library reads the variable once, when torch is imported.
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def overview(program: str) -> str:
    """Returns the list of commands."""
    lines = [f"  {program} {name:9}  {meaning}" for name, meaning in COMMANDS.items()]
    more = f"{program} train --help shows more"
    return "\n".join(["Score-based generative modelling through SDEs.", "", *lines, "", more])


def _completed(arguments: list[str]) -> list[str]:
    """Returns the arguments with the command first. For shell completion, the command is read from the user's line.

    To complete a line, the shell calls ``sdegen -sc query=bash`` with this line in the variable ``COMP_LINE``. Hydra
    expects a line without the command, so the command is removed from the line.
    """
    if arguments[0] not in ("-sc", "--shell-completion"):
        return arguments
    if "COMP_LINE" not in os.environ:
        # The script that installs completion is the same for all commands.
        return ["train", *arguments]
    program, _, line = os.environ["COMP_LINE"].lstrip().partition(" ")
    name, space, rest = line.lstrip().partition(" ")
    if not space:
        print(" ".join(command for command in COMMANDS if command.startswith(name)))
    elif name in ("report", "status"):
        word = rest.rpartition(" ")[2]
        print(" ".join(f"{path}{os.sep}" for path in sorted(glob(f"{escape(word)}*")) if Path(path).is_dir()))
    if not space or name not in commands.CONFIGURED:
        raise SystemExit
    os.environ["COMP_LINE"] = f"{program} {rest}"
    return [name, *arguments]
