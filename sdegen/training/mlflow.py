"""Record of a run with MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdegen.training.logger import Logger, identity, needed

LONGEST = 250
"""Largest length of the value of an option that every version of MLflow accepts."""


class MLflow(Logger):
    """A run of MLflow with the options of the run as parameters and its scalars as metrics.

    A resumed run continues the same record. Its identifier is in the file ``mlflow.txt`` in the run's folder.

    Args:
        uri: address of the server, or a folder such as ``file:mlruns``; null for MLFLOW_TRACKING_URI or MLflow's own
            default.
        experiment: name of MLflow's experiment, which is made if it does not exist.
    """

    def __init__(self, uri: str | None = None, experiment: str = "sdegen") -> None:
        self.uri, self.experiment = uri, experiment
        needed("mlflow", "mlflow-skinny")

    def begin(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self.uri)
        self._last: dict[str, int] = {}
        self._id = identity(folder, "mlflow")
        if self._id:
            self._client.update_run(self._id, "RUNNING")
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        self._id = self._client.create_run(experiment, tags={"mlflow.runName": name}).info.run_id
        identity(folder, "mlflow", self._id)
        for option, value in options.items():
            self._client.log_param(self._id, option, str(value)[:LONGEST])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, metrics = int(1000 * time.time()), []
        for name, value in values.items():
            if name not in self._last:
                history = self._client.get_metric_history(self._id, name)
                self._last[name] = max((metric.step for metric in history), default=-1)
            if step > self._last[name]:
                metrics.append(Metric(name, value, now, step))
                self._last[name] = step
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
