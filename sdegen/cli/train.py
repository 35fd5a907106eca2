"""``sdegen train``: train a model, then sample, measure and draw; go on with a run; forecast what a run costs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdegen.cli.command import Command, Job

if TYPE_CHECKING:
    from sdegen.cli.arguments import Arguments
    from sdegen.cli.composition import Plan

log = logging.getLogger("sdegen")


def check(config: dict[str, Any]) -> None:
    """Raise UserError for a configuration that cannot work."""
    from sdegen.config.assembly import replicated

    replicated(config)


def train(config: dict[str, Any], job: Job) -> None:
    """Train in the folder of a job; in a sweep, a run found there is resumed, or left unchanged if it is finished."""
    from sdegen.core import schema
    from sdegen.runs import ledger, session

    folder = job.folder.relative_to(Path.cwd()) if job.folder.is_relative_to(Path.cwd()) else job.folder

    def start() -> None:
        session.train(config, folder, command=job.command)

    new = True
    if job.swept:
        new = ledger.attempt(folder, config, start, lambda: session.resume(folder, {}, schema.ANYTHING))
    else:
        start()
    log.info(f"results in {folder}" + ("" if new else ", there before"))


def resume(arguments: Arguments, given: Sequence[str]) -> None:
    """Go on with a run in its own folder."""
    from sdegen.cli.arguments import names
    from sdegen.runs import session

    changes = arguments.values()
    foreign = [argument for argument in given if argument.lstrip("+").partition("=")[0] not in changes]
    folder, trust = Path(str(changes.pop("resume"))), names(changes.pop("trust", None))
    run = session.resume(folder, {**dict.fromkeys(foreign), **changes}, trust)
    log.info(f"results in {run.folder}")


def forecast(plan: Plan) -> None:
    """Print what each job of a plan would cost; for a sweep, write it beside the runs, where the report reads it."""
    from sdegen.cli.composition import EXECUTION
    from sdegen.runs import forecast

    names = [" ".join(part for part in overrides if not part.startswith(EXECUTION)) for overrides, _ in plan.jobs]
    costs = list(zip(names, forecast.each([config for _, config in plan.jobs]), strict=True))
    print(forecast.table(costs))
    if plan.sweep is not None:
        print(f"written to {forecast.write(plan.sweep, costs)}")


COMMAND = Command("train", check, train)


def run(program: str, given: Sequence[str]) -> None:
    """Train, go on with a run, or forecast, as the arguments ask for."""
    if any(argument.startswith(("resume=", "forecast=")) for argument in given):
        from sdegen.cli.arguments import read

        arguments = read(given)
        options = arguments.values()
        if options.get("resume") is not None:
            resume(arguments, given)
            return
        if options.get("forecast"):
            forecast(COMMAND.plan(COMMAND.composition(arguments)))
            return
    COMMAND.run(program, given)
