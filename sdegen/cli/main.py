"""The program ``sdegen``, which runs the command that its first argument names."""

from __future__ import annotations

import os
import sys
from glob import escape, glob
from pathlib import Path

from sdegen import __version__
from sdegen.cli import commands
from sdegen.cli.guard import fail, guard

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


def main(name: str = "") -> None:
    """Run a command with the arguments of this process.

    Args:
        name: name of the command; empty if the first argument names it.
    """
    path, arguments = Path(sys.argv[0]), sys.argv[1:]
    program = f"python {path}" if path.suffix == ".py" else path.name
    if path.name == "__main__.py":
        program = "python -m sdegen"
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
    guard(lambda: commands.RUN[name](program, arguments))


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
