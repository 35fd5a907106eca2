"""``sdegen train``: train a model, then sample, measure and draw; go on with a run; forecast what a run costs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdegen.cli import command
from sdegen.cli.guard import guard
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.cli.composition import Plan

log = logging.getLogger("sdegen")

RESUMABLE = ("trainer.steps", "trainer.epochs", "trainer.device", "dataset.path", "trust")
EXAMPLES = (
    ("experiment=smile", "one run of the paper's smile, in a minute or two"),
    ("experiment=smile sde=ve trainer.epochs=500", "the same, changed"),
    ("-m experiment=smile weighting=uniform,variance,likelihood", "a run for each value"),
    ("dataset=file dataset.path=points.csv", "your own points"),
    ("resume=outputs/smile/latest", "go on where a run stopped"),
)


def check(config: dict[str, Any]) -> None:
    """Raise UserError for a configuration that cannot work."""
    from sdegen.config.assembly import replicated

    replicated(config)


def task(config: dict[str, Any], job: command.Job) -> None:
    """Train in the folder of a job; a job of a sweep whose run is there already goes on, or is left as it is."""
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


def resume(options: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Go on with a run in its own folder."""
    from sdegen.cli.arguments import names
    from sdegen.runs import session

    foreign = [argument for argument in arguments if argument.startswith("-") or "=" not in argument]
    if foreign := [*foreign, *(key for key in options if key not in ("resume", *RESUMABLE))]:
        raise UserError(f"{foreign[0]}: cannot change on resume; with resume= go only {', '.join(RESUMABLE)}")
    changes = {key: options[key] for key in RESUMABLE[:-1] if key in options}
    run = session.resume(Path(str(options["resume"])), changes, names(options.get("trust")))
    log.info(f"results in {run.folder}")


def forecast(plan: Plan) -> None:
    """Print what each job of a plan would cost; for a sweep, write it beside the runs, where the report reads it."""
    for _, config in plan.jobs:
        check(config)
    from sdegen.runs import forecast

    foreign = ("forecast=", "sweep=", "hydra")
    names = [" ".join(part for part in overrides if not part.startswith(foreign)) for overrides, _ in plan.jobs]
    costs = list(zip(names, forecast.each([config for _, config in plan.jobs]), strict=True))
    print(forecast.table(costs))
    if plan.sweep is not None:
        print(f"written to {forecast.write(plan.sweep, costs)}")


COMMAND = command.Command("train", EXAMPLES, "dataset=file", check, task)


def run(program: str, arguments: Sequence[str]) -> None:
    """Train, go on with a run, or forecast, as the arguments ask for."""
    if not any(argument.startswith(("resume=", "forecast=")) for argument in arguments):
        command.run(COMMAND, program, arguments)
        return
    from sdegen.cli.arguments import read
    from sdegen.cli.composition import Composition

    asked = read(arguments)
    options = asked.values()
    if options.get("resume") is not None:
        resume(options, arguments)
    elif options.get("forecast"):
        forecast(Composition("train", asked).plan())
    else:
        command.run(COMMAND, program, arguments)


def main(program: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    guard(lambda: run(program, arguments))
