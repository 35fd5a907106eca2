"""``sdegen sample``: draw samples from a trained run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sdegen.cli.command import Command, Job
from sdegen.config.compose import Config

if TYPE_CHECKING:
    from sdegen.runs.run import Run

log = logging.getLogger("sdegen")

SAMPLED = ("sampler", "network", "sde")
"""Groups with the choice ``run``, the node that the run stores."""


def sampled(config: Config) -> tuple[Run, Config]:
    """Returns the run to sample and the checked configuration; raises UserError if the run cannot be loaded with it."""
    from sdegen.cli import stored
    from sdegen.cli.arguments import names
    from sdegen.config.options import SAMPLE, check

    groups = (*SAMPLED, *(["guidance"] if config["guidance"] else []))
    config = check(config, groups, {**SAMPLE, "guidance": type(None)}, names(config["trust"]))
    return stored.loaded(config).sampled_by(config["sampler"]), config


def check(config: Config) -> None:
    """Raise UserError if sampling with this configuration, its guidance and its label cannot work."""
    from sdegen.runs.guiding import planned

    run, config = sampled(config)
    log.disabled = True
    try:
        planned(run, config["guidance"], config["label"], condition=config["condition"])
    finally:
        # The job itself logs the warnings.
        log.disabled = False


def sample(config: Config, job: Job) -> str:
    """Write samples; return the folder of the samples."""
    from sdegen.runs import results

    run, config = sampled(config)
    options = {
        key: config[key] for key in ("seed", "batch_size", "guidance", "label", "condition", "figures", "animate")
    }
    written = results.write(run, config["count"], **options)
    log.info(f"results in {written.folder}")
    return str(written.folder)


def compare(folders: list[str]) -> int:
    """Write and log a table that compares the samplers of one command, and draw it; return the exit status."""
    if len(folders) > 1:
        from sdegen.reports import frontier

        for folder, table in frontier.write([Path(one) for one in folders]):
            log.info("\n".join([*table, f"frontier in {folder}"]))
    return 0


COMMAND = Command("sample", check, sample, SAMPLED, finish=compare)
