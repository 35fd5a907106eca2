"""The writer of a run's folder during training."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sdegen.config.components import Components, known_by
from sdegen.config.options import flat_options
from sdegen.core.errors import UserError
from sdegen.core.messages import Lost
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset
from sdegen.datasets.fingerprint import difference
from sdegen.datasets.summary import summary
from sdegen.models.likelihood import Likelihood
from sdegen.networks import MLP
from sdegen.runs import averages, files, machine
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.conditions import DATA, of_data, takes_one, told
from sdegen.runs.learning import Learning
from sdegen.runs.run import Run, load
from sdegen.runs.sampling import class_score, draw
from sdegen.runs.trained import load_weights
from sdegen.training.gradient import Model
from sdegen.training.loop import Training
from sdegen.training.perceptron import obstacle
from sdegen.training.trainer import DTYPES

log = logging.getLogger("sdegen")

PREVIEWED = {"vectors": 1000, "signals": 64, "images": 64}
"""Number of samples in a preview."""


class Writer:
    """Writer of a run's folder during training: checkpoints, files for TensorBoard, and samples at the end.

    ``replica`` is the index of the run in the training. Only the run with index 0 reports the progress.
    """

    def __init__(self, parts: Components, training: Training, replica: int, folder: Path, trust: Trust) -> None:
        self.parts, self.training, self.replica, self.folder, self.trust = parts, training, replica, folder, trust
        self.model, self.average = training.models[replica], training.averages[replica]
        self.dtype = DTYPES[parts.trainer.precision]
        self.learning = Learning(parts, training, replica)
        self.provenance: dict[str, Any] = {}
        self.data = known_by(parts.config, parts.dataset)
        self.best = math.inf
        self.resumed = False
        self.metrics: Mapping[str, Mapping[str, Any]] = {}

    def begin(self, command: str) -> None:
        """Write the first files of a new run."""
        # Replicas are saved before the run. If the run has no checkpoint, a failed attempt left those of the replicas.
        if not self.replica and any((self.folder / "checkpoints").glob("*.pt")):
            raise UserError(f"{self.folder}: holds a run already: remove it, or resume it with resume={self.folder}")
        self.provenance = machine.provenance(command)
        files.write_yaml(self.folder / "config.yaml", self.parts.config)
        files.write_json(self.folder / "provenance.json", self.provenance)
        files.write_json(self.folder / files.DATA, self.summary)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Summary of the data, computed once, because data can be large."""
        return summary(self.parts.dataset)

    def check_data(self, saved: Checkpoint) -> None:
        """Raise UserError if a checkpoint was trained on other data."""
        if found := difference(saved.data, self.data):
            moved = ": set dataset.path= to the old data" if "path" in self.parts.config["dataset"] else ": train again"
            raise UserError(f"resume={self.folder}: the data have changed since the run began: {found}{moved}")

    def restore(self, saved: Checkpoint) -> None:
        """Restore the weights of a checkpoint."""
        self.best = saved.best
        self.learning.curve.restore(saved.curve)
        load_weights(self.model.network, saved.weights)
        load_weights(self.average.network, saved.ema)
        if saved.averages.keys() != self.training.tracked.keys():
            raise UserError(
                f"{self.folder}: the checkpoint of step {saved.step} has other averages than those of trainer.widths: "
                f"use the original checkpoint"
            )
        for width, average in self.training.tracked.items():
            load_weights(average.models[self.replica].network, saved.averages[width])

    def resume(self, saved: Checkpoint, command: str) -> None:
        """Continue in the folder of a restored run; log a warning if versions have changed since the run began."""
        now, before = machine.provenance(""), saved.provenance
        changed = [key for key in ("python", "packages", "commit", "clean", "processes") if now[key] != before.get(key)]
        earlier = before.get("resumed")
        # config.yaml keeps the options of the beginning.
        given = dict(flat_options(saved.config))
        options = {path: value for path, value in flat_options(self.parts.config) if given.get(path) != value}
        own = {"step": saved.step, "command": command, "options": options, **{key: now[key] for key in changed}}
        self.provenance = {**before, "resumed": [*(earlier if isinstance(earlier, list) else []), own]}
        self.resumed = True
        # The metrics are written last, so that their file means that the run is finished.
        (self.folder / "metrics.json").unlink(missing_ok=True)
        if set(changed) & {"python", "packages"} and not self.replica:
            log.warning("the run began with other versions of packages, see provenance.json: last digits may differ")
        folder, keep = self.folder / "checkpoints", self.parts.trainer.keep
        if saved.config["dataset"] == self.parts.config["dataset"]:
            checkpoints.settle(saved, folder, keep, self.training.saves)
        else:
            # Keep the new path of data that have moved, even if no step is left to train.
            files.write_yaml(self.folder / "config.yaml", self.parts.config)
            checkpoints.save(saved._replace(config=self.parts.config), folder, keep, self.training.saves)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the run for TensorBoard until the context is left."""
        # Import late: TensorBoard and matplotlib take seconds, and errors in a configuration are reported before.
        from sdegen.runs.recorder import Recorder

        start, stop = self.training.step, self.training.steps
        silent, logger = self.replica > 0, self.parts.logger
        self.recorder = Recorder(self.folder, start, stop, not self.resumed, silent, logger)
        with self.recorder.session(flat_options(self.parts.config), files.as_yaml(self.parts.config)):
            yield

    def warn(self) -> None:
        """Log what was read, and warnings about options that the user may not have meant."""
        if not self.resumed:
            for line in [*self.summary["text"], *self.parts.prior_text()]:
                log.info(line)
        missing = obstacle(self.parts.model, self.parts.objective, self.parts.trainer.precision == "bfloat16")
        if missing and self.parts.trainer.gradient == "auto" and type(self.parts.model.network) is MLP:
            log.info(f"autograd computes the gradient: the faster trainer.gradient=written needs {missing}")
        if self.parts.trainer.precision == "bfloat16" and self.parts.dataset.units.kind == "vectors":
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "use float32 for points"
            )
        for concern in self.summary["concerns"]:
            log.warning(concern)

    def evaluate(self) -> float | None:
        """Record and return the held-out loss: see :meth:`Learning.evaluate`."""
        if (loss := self.learning.evaluate()) is not None:
            self.recorder.scalars(self.training.step, {"train/held_out_loss": loss})
        return loss

    def save(self) -> None:
        """Write a checkpoint; raise UserError if the first checkpoint of the run cannot be read again."""
        training, dataset = self.training, self.parts.dataset
        # Skip the loss for a checkpoint that only an interruption caused: an uninterrupted run does not compute it.
        held_out = self.learning.loss() if training.saves else None
        if held_out is not None:
            self.best = min(self.best, held_out)
        checkpoints.save(
            Checkpoint(
                config=self.parts.config,
                step=training.step,
                seconds=training.seconds,
                weights=self._state(self.model),
                ema=self._state(self.average),
                optimizer=training.state(self.replica),
                units=dataset.units.state(),
                moments=None if self.parts.moments is None else self.parts.moments.state(),
                data=self.data,
                classes=dataset.classes,
                conditions=None if dataset.conditions is None else dataset.conditions.state(),
                names=dataset.description.names(),
                provenance=self.provenance,
                held_out=held_out,
                best=self.best,
                history=training.history(self.replica),
                curve=self.learning.curve.state(),
                stream=training.stream.variant,
                weighting=training.weighting(self.replica),
                averages=self._averages(),
            ),
            self.folder / "checkpoints",
            self.parts.trainer.keep,
            training.saves,
        )
        if training.step == 0:
            self._read_back()

    def snapshot(self) -> None:
        """Write a snapshot of the averages of ``trainer.widths``."""
        averages.save(self.folder, self.training.step, self._averages())

    def _averages(self) -> averages.States:
        return {width: self._state(own.models[self.replica]) for width, own in self.training.tracked.items()}

    def _state(self, model: Model) -> dict[str, Any]:
        state: dict[str, Any] = model.network.state_dict()
        if len(self.training.models) == 1:
            return state
        # The weights of replicas are parts of one vector, which torch would save as a whole.
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    def _read_back(self) -> None:
        """Read the checkpoint that was just written; raise UserError if a run could not resume from it."""
        name = self.parts.config["network"]["_target_"]
        try:
            saved = checkpoints.load(checkpoints.find(self.folder, self.training.step))
            examine(self.folder, saved, self.trust)
            load_weights(self.average.network, saved.ema)
        except UserError as error:
            raise UserError(
                f"network: the state_dict of {name} cannot be saved and read again, change the class: {error}"
            ) from None

    def preview(self) -> None:
        """Record samples of the averaged network for TensorBoard, or metrics of a classifier or regressor."""
        from sdegen import figures, metrics
        from sdegen.runs import likelihoods, measures

        parts, step, dtype = self.parts, self.training.step, self.dtype
        dataset, device, average = parts.dataset, parts.trainer.device, self.average
        if isinstance(average, Likelihood):
            found, times, curves, name = likelihoods.judge(dataset, average, device, dtype)
            if found:
                unseen, *_ = curves.values()
                curve = list(zip(times, unseen, strict=True))[::4]
                values = {f"metrics/{key}": entry["value"] for key, entry in found.items()}
                by_t = {f"{name}_by_t/{float(t):.1f}": float(value) for t, value in curve}
                self.recorder.scalars(step, {**values, **by_t})
            return
        count = PREVIEWED[dataset.units.kind]
        taken, given, y = average.network.condition, None, None
        if taken is not None:
            points = of_data(dataset, taken.labelled, taken.valued, count)
            y, given = points.y, told(taken, dataset.conditions, points.y, points.c)
        try:
            samples = draw(
                parts.sde, average, parts.sampler, dataset.units, count, device=device, dtype=dtype, told=given
            )
        except Lost:
            raise
        except UserError as trouble:
            # Early in the training, the steps of a sampler can diverge.
            log.warning(f"no preview at step {step}: {trouble}")
            return
        self.recorder.figure(step, "samples", figures.compare(dataset, dataset.units.decode(samples.x), y))
        # The metrics of the finished run are computed next.
        if step == self.training.steps or (taken is not None and not taken.knows(taken.labelled, False)):
            return

        def error(data: Dataset, label: int | None) -> float | None:
            return metrics.score_error(data, parts.sde, class_score(average, label, device, dtype))

        found = measures.error_of_scores(dataset, y, error)
        self.recorder.scalars(step, {f"metrics/{name}": entry["value"] for name, entry in found.items()})

    def finish(self) -> Run:
        """Write samples, metrics and figures, and return the trained run."""
        from sdegen.runs import gallery, results

        parts, training, folder, config = self.parts, self.training, self.folder, self.parts.config
        result = load(
            folder, device=str(parts.trainer.device), precision=parts.trainer.sampling_precision, trust=self.trust
        )
        if isinstance(result.model, Likelihood):
            self.metrics = results.write_likelihood(result, result.model, config["figures"])
        else:
            written = results.write(
                result,
                config["count"],
                seed=config["seed"],
                figures=config["figures"],
                animate=True,
                condition=DATA if takes_one(result) else None,
                after_training=True,
            )
            self.metrics = written.metrics
            # There are no figures with figures=false, or if the data can no longer be read.
            if (written.folder / "figures").is_dir():
                shutil.copytree(written.folder / "figures", folder / "figures", dirs_exist_ok=True)
                gallery.draw_score(result, folder / "figures")
        self.recorder.final(training.steps, {name: entry["value"] for name, entry in self.metrics.items()})
        if learning := self.learning.summary():
            log.info(learning["sentence"])
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": machine.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**self.provenance, "training": cost, "learning": learning})
        files.write_json(folder / "metrics.json", self.metrics)
        return result
