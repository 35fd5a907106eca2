"""``sdegen evaluate``: evaluate a trained run by its flow between data and latents."""

from __future__ import annotations

import logging
from typing import Any

from sdegen.cli.command import Command, Job
from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

GROUPS = ("network",)


def loaded(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """Returns the evaluation and the metrics that a configuration asks for; raises UserError if it cannot work."""
    from sdegen.cli.arguments import names
    from sdegen.config.options import EVALUATE, check
    from sdegen.runs.evaluation import Evaluation
    from sdegen.runs.run import load

    config = check(config, GROUPS, EVALUATE, names(config["trust"]))
    settings = {key: config[key] for key in ("checkpoint", "weights", "device", "precision", "trust")}
    run = load(config["run"], nodes={group: config[group] for group in GROUPS}, **settings)
    options = {key: config[key] for key in ("count", "seed", "batch_size", "probes", "rtol", "atol")}
    evaluation, asked = Evaluation(run, **options), config["metrics"]
    metrics = [asked] if isinstance(asked, str) else list(asked)
    if not metrics:
        raise UserError("metrics: is empty: try metrics=[likelihood,interpolation]")
    for metric in metrics:
        evaluation.check(metric)
    return evaluation, metrics


def write(config: dict[str, Any], job: Job) -> None:
    """Write the results of each metric."""
    evaluation, metrics = loaded(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


COMMAND = Command("evaluate", loaded, write, GROUPS)
run = COMMAND.run
