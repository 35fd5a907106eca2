"""The commands of ``sdegen``. Those with a configuration have modules of their own, with their names.

Slow modules are imported in the functions, so that help and error messages appear quickly.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from sdegen.cli import calibrate, evaluate, sample, train, verify
from sdegen.cli.guard import fail
from sdegen.config.compose import CONF
from sdegen.core.errors import UserError


def report(program: str, given: Sequence[str]) -> None:
    """Write a page about the runs in a folder. Print the path of the page, and the skipped runs with the reasons."""
    parser = argparse.ArgumentParser(prog=program, description="Write report.html, a page that needs no other file.")
    parser.add_argument("folder", type=Path, help="a folder with runs in it, at any depth, such as outputs/paper")
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folder = parser.parse_args(given).folder
    from sdegen.reports import report

    page, runs, left_out = report.write(folder)
    for path, why in left_out:
        print(f"left out {path}: {why}")
    print(f"{len(runs)} run{'s' * (len(runs) != 1)} in {page}")


def status(program: str, given: Sequence[str]) -> None:
    """Print the states of the jobs and runs in folders."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Show which jobs of sweeps, and which runs, are done, running, waiting, stopped or failed.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="*", default=[Path("outputs")], help="folders with runs in them; outputs by default"
    )
    parser.error = lambda message: fail(f"{message}: see --help")  # type: ignore[method-assign]
    folders = parser.parse_args(given).folder
    from sdegen.reports import status

    print("\n\n".join(status.table(status.status(folder)) for folder in folders))


def benchmark(program: str, given: Sequence[str]) -> None:
    """Run a benchmark, if the package is installed from a checkout."""
    script = CONF.parent / "scripts" / "benchmark.py"
    if not script.exists():
        raise UserError("benchmarks exist only in a checkout of sdegen: clone it and run python scripts/benchmark.py")
    sys.argv = [str(script), *given]
    runpy.run_path(str(script), run_name="__main__")


CONFIGURED = {module.COMMAND.name: module.COMMAND for module in (train, sample, evaluate, verify, calibrate)}
"""Commands that have a configuration. Hydra reads the arguments of these commands."""
RUN = {
    **{name: command.run for name, command in CONFIGURED.items()},
    **{"train": train.run, "evaluate": evaluate.run, "report": report, "status": status, "benchmark": benchmark},
}
"""Functions that run the commands. They take the beginning of the command line (``sdegen train``) and the arguments."""
