"""``sdegen evaluate``: compute likelihoods of a run, or measure its samples or a user's points."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdegen.cli.command import Command, Job
from sdegen.config.compose import Config
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.runs.evaluation import Evaluation

log = logging.getLogger("sdegen")

EVALUATED = ("network", "sde")
"""Groups with the choice ``run``, the node that the run stores."""


def evaluated(config: Config) -> tuple[Evaluation, list[str]]:
    """Returns the evaluation and the metrics of a configuration; raises UserError if a metric cannot be computed."""
    from sdegen.cli.arguments import names
    from sdegen.cli.stored import loaded
    from sdegen.config.options import EVALUATE, check
    from sdegen.runs.evaluation import Evaluation
    from sdegen.runs.feature_file import FeatureFile

    config = check(config, EVALUATED, EVALUATE, names(config["trust"]))
    options = {key: config[key] for key in ("points", "count", "seed", "batch_size", "probes", "rtol", "atol")}
    if config["features"] is not None:
        parts = (config[key] for key in ("features", "features_class", "features_sha256", "trust"))
        options["features"] = FeatureFile(*parts)
    swept, asked = config["ema"] == "sweep", config["metrics"]
    evaluation = Evaluation(loaded({**config, "ema": None} if swept else config), **options)
    metrics = [asked] if isinstance(asked, str) else list(asked)
    if swept:
        if metrics != ["likelihood"]:
            raise UserError("ema=sweep: a sweep chooses its own measures: leave out metrics=")
        if config["weights"] != "ema":
            raise UserError(f"ema=sweep: a sweep measures averaged weights: leave out weights={config['weights']}")
        metrics = ["sweep"]
    if not metrics:
        raise UserError("metrics: is empty: try metrics=[likelihood,interpolation]")
    if "fid" not in metrics and config["features"] is not None:
        raise UserError(f"features={config['features']}: only metrics=fid uses it: add metrics=fid, or leave it out")
    for metric in metrics:
        evaluation.check(metric)
    return evaluation, metrics


def evaluate(config: Config, job: Job) -> None:
    """Compute each metric and write the results."""
    evaluation, metrics = evaluated(config)
    for metric in metrics:
        log.info(f"results in {evaluation.write(metric).folder}")


COMMAND = Command("evaluate", evaluated, evaluate, EVALUATED)


def run(program: str, given: Sequence[str]) -> None:
    """Evaluate a run, unless the arguments name other data for the run."""
    if any(argument.startswith("dataset.path=") for argument in given):
        raise UserError("dataset.path: a run keeps the data that it was trained on: give new points as points=new.csv")
    COMMAND.run(program, given)
