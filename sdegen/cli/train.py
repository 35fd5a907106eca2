"""``sdegen train``: train a run, resume it, or forecast its cost."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdegen.cli.command import Command, Job
from sdegen.cli.guard import imports
from sdegen.config.compose import Config
from sdegen.core import meeting, processes
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.cli.arguments import Arguments
    from sdegen.cli.composition import Plan
    from sdegen.runs.run import Run

log = logging.getLogger("sdegen")


def check(config: Config) -> None:
    """Raise UserError if a training with this configuration cannot work."""
    from sdegen.runs.teachers import replicated

    replicated(config)
    devices = config["devices"]
    if devices is not None and devices < 1:
        raise UserError(f"devices={devices}: must be at least 1: try devices=2")
    if devices is not None and not config["forecast"]:
        raise UserError(
            f"devices={devices}: only a forecast takes it: add forecast=true, or start the training with torchrun "
            f"--nproc-per-node={devices} -m sdegen train"
        )


def train(config: Config, job: Job) -> str:
    """Train in a job's folder; return the folder. In a sweep, resume an unfinished run, and skip a finished run."""
    from sdegen.core import schema
    from sdegen.core.errors import Pruned
    from sdegen.runs import ledger, session
    from sdegen.training.history import Diverged

    folder = job.folder.relative_to(Path.cwd()) if job.folder.is_relative_to(Path.cwd()) else job.folder

    watch = None if job.trial is None else job.trial.watch

    def start() -> None:
        session.train(config, folder, command=job.command, watch=watch)

    def resume() -> None:
        session.resume(folder, {}, schema.ANYTHING, job.command, watch)

    if not job.swept:
        new = True
        own, folder = folder, Path(meeting.first("folder", str(folder)))
        if count := meeting.restarts():
            saved = (folder / "checkpoints" / "last.pt").exists()
            again = "goes on from its last checkpoint" if saved else "has no checkpoint here and starts again"
            log.info(f"restart {count} by torchrun: the run in {folder} {again}")
            if own != folder:
                shutil.rmtree(own)
            if not (folder / "metrics.json").exists():
                ledger.go_on(folder, start, resume)
        else:
            start()
    elif job.trial is None:
        new = ledger.attempt(folder, config, start, resume)
    else:
        job.trial.note(folder, job.command)
        try:
            new = ledger.attempt(folder, config, start, resume)
        except (Pruned, Diverged) as end:
            # A rate at which the training diverges is an answer to the search, and not a fault.
            job.trial.prune()
            log.info(str(end))
            return str(folder)
        job.trial.complete(folder)
    log.info(f"results in {folder}" + ("" if new else ", from an earlier command"))
    return str(folder)


def announce(plan: Plan) -> None:
    """Write the names of the jobs of a sweep into its folder, for ``sdegen status``."""
    from sdegen.cli.arguments import EXECUTION
    from sdegen.runs import ledger

    found: dict[Path, dict[str, list[str]]] = {}
    for folder, (overrides, _) in zip(plan.folders, plan.jobs, strict=False):
        given = [override for override in overrides if not override.startswith(EXECUTION)]
        found.setdefault(folder.parent, {})[folder.name] = given
    for sweep, jobs in found.items():
        ledger.announce(sweep, jobs)


def compare(folders: list[str]) -> int:
    """Log a table that compares the runs of one command; return the exit status."""
    if len(folders) > 1:
        from sdegen.reports import summary

        log.info("\n".join(summary.compared([Path(one) for one in folders])))
    return 0


def resume(arguments: Arguments, given: Sequence[str], command: str, **options: object) -> Run:
    """Resume the run that ``resume=`` names, in its own folder. The other arguments change options of the run.

    Args:
        arguments: arguments as Hydra reads them.
        given: same arguments, as the user wrote them.
        command: command line or Python call, which is recorded in ``provenance.json``.
        options: values of further options, by path.

    Raises:
        UserError: the run cannot be resumed with these arguments.
    """
    with imports():
        from sdegen.cli.arguments import names
        from sdegen.runs import session

    changes = arguments.values() | options
    foreign = [argument for argument in given if argument.lstrip("+").partition("=")[0] not in changes]
    folder, trust = Path(str(changes.pop("resume"))), names(changes.pop("trust", None))
    return session.resume(folder, {**dict.fromkeys(foreign), **changes}, trust, command)


def forecast(plan: Plan) -> None:
    """Print the expected cost of each job of a plan.

    For a single run, also print the memory of a step, and of the options that need less. For a sweep, write the costs
    to its folder for the report.
    """
    from sdegen.cli.arguments import EXECUTION
    from sdegen.runs import forecast, memory

    if plan.search is not None:
        raise UserError(
            "forecast=true: a search chooses its trials one after the other: forecast a single run, without -m and "
            "hydra/sweeper, and multiply its cost by hydra.sweeper.n_trials"
        )
    configs = [config for _, config in plan.jobs]
    if plan.sweep is not None and (devices := configs[0]["devices"]) is not None:
        raise UserError(f"devices={devices}: works for a single run: forecast one job of the sweep without -m")
    found = memory.plan(configs[0], configs[0]["devices"] or 1) if plan.sweep is None else None
    if found is not None and not found.options[0].fits:
        print(memory.table(found))
        return
    names = [" ".join(part for part in overrides if not part.startswith(EXECUTION)) for overrides, _ in plan.jobs]
    if processes.present().size > 1:
        log.warning("forecast=true: measures process 0 alone: devices=… shares a step out")
    with processes.alone():
        costs = list(zip(names, forecast.each(configs), strict=True))
    print(forecast.table(costs))
    if found is not None:
        print(f"\n{memory.table(found)}")
    if plan.sweep is not None:
        print(f"written to {forecast.write(plan.sweep, costs)}")


COMMAND = Command("train", check, train, begin=announce, finish=compare)


def run(program: str, given: Sequence[str]) -> None:
    """Train a run, resume a run or forecast the cost, depending on the arguments."""
    if any(argument.startswith(("resume=", "forecast=")) for argument in given):
        from sdegen.cli.arguments import read

        arguments = read(given)
        options = arguments.values()
        if options.get("resume") is not None:
            run = resume(arguments, given, f"{program} {shlex.join(given)}")
            log.info(f"results in {run.folder}")
            return
        if options.get("forecast"):
            forecast(COMMAND.plan(COMMAND.composition(arguments)))
            return
    COMMAND.run(program, given)
