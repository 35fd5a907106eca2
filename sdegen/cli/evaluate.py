"""``sdegen evaluate``: evaluate a trained run by its flow between data and latents."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sdegen.cli import command
from sdegen.core.errors import UserError

log = logging.getLogger("sdegen")

GROUPS = ("network",)
EXAMPLES = (
    ("run=outputs/smile_noisy/latest", "likelihood, beside its floor"),
    ("run=outputs/smile_noisy/latest metrics=interpolation", "between pairs of points"),
    ("run=outputs/smile_noisy/latest network=oracle", "with the exact score instead"),
    ("run=outputs/smile_noisy/latest probes=1 seed=1", "Hutchinson's estimate"),
    ("-m run=outputs/smile_noisy/latest checkpoint=1000,2000", "for each checkpoint"),
)


def loaded(config: dict[str, Any]) -> tuple[Any, list[str]]:
    """Returns the evaluation and the metrics that a configuration asks for; raises UserError where it cannot work."""
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


def task(config: dict[str, Any], job: command.Job) -> None:
    """Write the results of each metric."""
    evaluation, metrics = loaded(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


COMMAND = command.Command("evaluate", EXAMPLES, "network=oracle", loaded, task, GROUPS)


def main(program: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    command.main(COMMAND, program, arguments)
