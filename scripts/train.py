"""Train a score model, then sample, measure and draw: ``python scripts/train.py experiment=smile``."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from sdegen.cli import command
from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

RESUMABLE = ("trainer.steps", "trainer.epochs", "trainer.device", "dataset.path", "trust")


def check(config: dict[str, Any]) -> None:
    from sdegen.config.assembly import replicated

    replicated(config)


def task(config: dict[str, Any], folder: Path) -> None:
    from sdegen.core import schema
    from sdegen.runs import ledger, session

    folder = relative(folder)

    def start() -> None:
        session.train(config, folder, command=shlex.join(["python", *sys.argv]))

    if command.swept():
        new = ledger.attempt(folder, config, start, lambda: session.resume(folder, {}, schema.ANYTHING))
        log.info(f"results in {folder}" + ("" if new else ", there before"))
    else:
        start()
        log.info(f"results in {folder}")


def resume(options: dict[str, Any]) -> None:
    """Go on with a run in its own folder."""
    from sdegen.runs import session

    foreign = [argument for argument in sys.argv[1:] if argument.startswith("-") or "=" not in argument]
    if foreign := [*foreign, *(key for key in options if key not in ("resume", *RESUMABLE))]:
        raise UserError(f"{foreign[0]}: cannot change on resume; with resume= go only {', '.join(RESUMABLE)}")
    changes = {key: options[key] for key in RESUMABLE[:-1] if key in options}
    run = session.resume(Path(str(options["resume"])), changes, command.names(options.get("trust")))
    log.info(f"results in {run.folder}")


def tell_cost() -> None:
    """Tell what the run would cost, or each of a sweep; of a sweep it is written, too, for the report."""
    jobs, sweep = command.configurations("train")
    for _, config in jobs:
        check(config)
    from sdegen.runs import forecast

    names = [" ".join(part for part in job if not part.startswith(("forecast=", "sweep=", "hydra"))) for job, _ in jobs]
    costs = list(zip(names, forecast.each([config for _, config in jobs]), strict=True))
    print(forecast.table(costs))
    if sweep is not None:
        print(f"written to {forecast.write(sweep, costs)}")


def relative(folder: Path) -> Path:
    """A folder as seen from here, where it is below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


if __name__ == "__main__":
    asked = command.options()
    if asked.get("resume") is not None:
        command.guard(lambda: resume(asked), "train")
    elif asked.get("forecast"):
        command.guard(tell_cost, "train")
    else:
        command.run("train", check, task)
