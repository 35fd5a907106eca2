"""``sdegen sample``: draw samples from a trained run, with its own sampler or another one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sdegen.cli.command import Command, Job

log = logging.getLogger("sdegen")

GROUPS = ("sampler", "network")


def loaded(config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the run and the checked configuration; raises UserError if they cannot work."""
    from sdegen.cli import stored
    from sdegen.cli.arguments import names
    from sdegen.config.options import SAMPLE
    from sdegen.config.options import check as checked

    groups = (*GROUPS, *(["guidance"] if config["guidance"] else []))
    options = {key: value for key, value in config.items() if key != "guidance" or value}
    config = {"guidance": None, **checked(options, groups, SAMPLE, names(config["trust"]))}
    return stored.loaded(config, GROUPS), config


def check(config: dict[str, Any]) -> None:
    """Raise UserError for a configuration that cannot work, its guidance and its label included."""
    from sdegen.runs.results import planned

    run, config = loaded(config)
    planned(run, config["guidance"], config["label"])


def write(config: dict[str, Any], job: Job) -> str:
    """Write samples; returns their folder."""
    from sdegen.runs import results

    run, config = loaded(config)
    options = {key: config[key] for key in ("seed", "batch_size", "guidance", "label", "figures", "animate")}
    written = results.write(run, config["count"], **options)
    log.info(f"results in {written.folder}")
    return str(written.folder)


def compare(folders: list[str]) -> int:
    """Write a table and a figure of the samplers that one command ran; returns the exit status."""
    if len(folders) > 1:
        from sdegen.reports import frontier

        for folder in frontier.write([Path(one) for one in folders]):
            log.info(f"frontier in {folder}")
    return 0


COMMAND = Command("sample", check, write, GROUPS, compare)
run = COMMAND.run
