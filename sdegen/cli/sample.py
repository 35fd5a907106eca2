"""``sdegen sample``: draw samples from a trained run, with its own sampler or another one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdegen.cli import command

log = logging.getLogger("sdegen")

GROUPS = ("sampler", "network")
EXAMPLES = (
    ("run=outputs/smile/latest", "with the run's own sampler"),
    ("run=outputs/smile/latest sampler.steps=50", "the same, changed"),
    ("run=outputs/smile/latest network=oracle", "with the exact score instead"),
    ("run=outputs/digits/latest guidance=classifier guidance.run=outputs/digits_classifier/latest label=all", ""),
    ("-m run=outputs/smile/latest sampler=euler_maruyama,rk45,dopri5", "compare samplers"),
)


def loaded(config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the run, guided where that is asked for, and the checked configuration; raises UserError."""
    from sdegen.cli.arguments import names
    from sdegen.config.options import SAMPLE, check
    from sdegen.runs.results import planned
    from sdegen.runs.run import load

    groups = (*GROUPS, *(["guidance"] if config["guidance"] else []))
    options = {key: value for key, value in config.items() if key != "guidance" or value}
    config = {"guidance": None, **check(options, groups, SAMPLE, names(config["trust"]))}
    nodes = {group: config[group] for group in GROUPS}
    settings = {key: config[key] for key in ("checkpoint", "weights", "device", "precision", "trust")}
    run = load(config["run"], nodes=nodes, **settings)
    planned(run, config["guidance"], config["label"])
    return run, config


def task(config: dict[str, Any], job: command.Job) -> str:
    """Write samples; returns their folder."""
    from sdegen.runs import results

    run, config = loaded(config)
    options = {key: config[key] for key in ("seed", "batch_size", "guidance", "label", "figures", "animate")}
    left = results.write(run, config["count"], **options)
    log.info(f"results in {left.folder}")
    return str(left.folder)


def compare(written: list[str]) -> int:
    """Write a table and a figure of the samplers that one command ran; returns the exit status."""
    if len(written) > 1:
        from sdegen.reports import frontier

        for folder in frontier.write([Path(one) for one in written]):
            log.info(f"frontier in {folder}")
    return 0


COMMAND = command.Command("sample", EXAMPLES, "sampler=adams", loaded, task, GROUPS, compare)


def main(program: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    command.main(COMMAND, program, arguments)
