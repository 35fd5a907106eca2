"""Record of a run with Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sdegen.training.logger import Logger, identity, needed


class WandB(Logger):
    """A run of Weights & Biases with the options of the run as its configuration and the scalars as its history.

    A resumed run continues the same record. Its identifier is in the file ``wandb.txt`` in the run's folder. W&B
    writes its files into ``wandb/`` in the working directory, or into the folder WANDB_DIR.

    Args:
        project: name of the project.
        mode: ``online``, or ``offline`` for files that ``wandb sync`` sends later.
    """

    def __init__(self, project: str = "sdegen", mode: Literal["online", "offline"] = "online") -> None:
        self.project, self.mode = project, mode
        needed("wandb", "wandb")

    def begin(self, folder: Path, name: str, options: Mapping[str, Any]) -> None:
        import wandb

        own = identity(folder, "wandb", uuid.uuid4().hex[:16])
        settings = wandb.Settings(silent=True, console="off", reinit="create_new")
        self._run = wandb.init(
            project=self.project,
            name=name,
            id=own,
            resume="allow",
            mode=self.mode,
            config=dict(options),
            settings=settings,
        )
        # Scalars are drawn against the step of the training. W&B's own count of calls would go on after a resume.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def end(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
