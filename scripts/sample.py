"""Sample from a trained run: ``python scripts/sample.py run=outputs/smile/latest sampler=dopri5``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from sdegen.cli import command

log = logging.getLogger("sdegen")


def loaded(config: dict[str, Any]) -> Any:  # noqa: ANN401
    from sdegen.config.checks import check
    from sdegen.config.options import SAMPLE
    from sdegen.runs.results import planned
    from sdegen.runs.run import load

    groups = (*command.NODES, *(["guidance"] if config["guidance"] else []))
    options = {key: value for key, value in config.items() if key != "guidance" or value}
    config = {"guidance": None, **check(options, groups, SAMPLE, command.names(config["trust"]))}
    nodes = {group: config[group] for group in command.NODES}
    settings = {key: config[key] for key in ("checkpoint", "weights", "device", "precision", "trust")}
    run = load(config["run"], nodes=nodes, **settings)
    planned(run, config["guidance"], config["label"])
    return run, config


def task(config: dict[str, Any], folder: Path) -> str:
    """Leave samples; returns their folder."""
    from sdegen.runs import results

    run, config = loaded(config)
    options = {key: config[key] for key in ("seed", "batch_size", "guidance", "label", "animate")}
    left = results.write(run, config["count"], **options)
    log.info(f"results in {left.folder}")
    return str(left.folder)


def compare(written: list[str]) -> int:
    """Leave a table and a figure of the samplers that one command ran; returns the exit status."""
    if len(written) > 1:
        from sdegen.reports import frontier

        for folder in frontier.write([Path(one) for one in written]):
            log.info(f"frontier in {folder}")
    return 0


if __name__ == "__main__":
    command.run("sample", loaded, task, nodes=command.own_nodes, after=compare)
