"""``sdegen evaluate``: evaluate a trained run by its flow between data and latents."""

from __future__ import annotations

import logging
from typing import Any

from sdegen.cli.command import Command, Job
from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

GROUPS = ("network",)


def planned(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """Returns the evaluation and the metrics that a configuration asks for; raises UserError if it cannot work."""
    from sdegen.cli.arguments import names
    from sdegen.cli.stored import loaded
    from sdegen.config.options import EVALUATE, check
    from sdegen.runs.evaluation import Evaluation

    config = check(config, GROUPS, EVALUATE, names(config["trust"]))
    options = {key: config[key] for key in ("count", "seed", "batch_size", "probes", "rtol", "atol")}
    evaluation, asked = Evaluation(loaded(config, GROUPS), **options), config["metrics"]
    metrics = [asked] if isinstance(asked, str) else list(asked)
    if not metrics:
        raise UserError("metrics: is empty: try metrics=[likelihood,interpolation]")
    for metric in metrics:
        evaluation.check(metric)
    return evaluation, metrics


def write(config: dict[str, Any], job: Job) -> None:
    """Write the results of each metric."""
    evaluation, metrics = planned(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


COMMAND = Command("evaluate", planned, write, GROUPS)
run = COMMAND.run
