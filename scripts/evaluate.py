"""Evaluate a trained run by its flow: ``python scripts/evaluate.py run=outputs/smile_noisy/latest``."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from sdegen.cli import command
from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

GROUPS = ("network",)


def loaded(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """The evaluation, and the metrics that are asked for."""
    from sdegen.config.checks import check
    from sdegen.config.options import EVALUATE
    from sdegen.runs.evaluation import Evaluation
    from sdegen.runs.run import load

    config = check(config, GROUPS, EVALUATE, command.names(config["trust"]))
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


def task(config: dict[str, Any], folder: Path) -> None:
    evaluation, metrics = loaded(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


if __name__ == "__main__":
    command.run("evaluate", loaded, task, nodes=partial(command.own_nodes, GROUPS))
