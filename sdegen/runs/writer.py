"""The writer of a run's folder during training."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdegen.config.assembly import Components, known_by
from sdegen.config.options import flat_options
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.datasets.fingerprint import difference
from sdegen.models.classifier import ClassifierModel
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import files, machine
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.run import Run, load
from sdegen.runs.sampling import draw, on_cpu
from sdegen.runs.trained import load_weights
from sdegen.training.loop import Training
from sdegen.training.trainer import DTYPES

log = logging.getLogger("sdegen")

PREVIEWED = {"vectors": 1000, "images": 64}
"""Number of samples in a preview."""


class Writer:
    """Writer of a run's folder during training: checkpoints, files for TensorBoard, and samples at the end.

    ``replica`` is the index of the run in the training. Only the run with index 0 reports the progress.
    """

    def __init__(self, parts: Components, training: Training, replica: int, folder: Path, trust: Trust) -> None:
        self.parts, self.training, self.replica, self.folder, self.trust = parts, training, replica, folder, trust
        self.model, self.average = training.models[replica], training.averages[replica]
        self.dtype = DTYPES[parts.trainer.precision]
        self.held_out = parts.held_out()
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

    def check_data(self, saved: Checkpoint) -> None:
        """Raise UserError if a checkpoint was trained on other data."""
        if found := difference(saved.data, self.data):
            moved = ": set dataset.path= to the old data" if "path" in self.parts.config["dataset"] else ": train again"
            raise UserError(f"resume={self.folder}: the data have changed since the run began: {found}{moved}")

    def restore(self, saved: Checkpoint) -> None:
        """Restore the weights of a checkpoint."""
        self.best = saved.best
        load_weights(self.model.network, saved.weights)
        load_weights(self.average.network, saved.ema)

    def resume(self, saved: Checkpoint, command: str) -> None:
        """Continue in the folder of a restored run; log a warning if versions have changed since the run began."""
        now, before = machine.provenance(""), saved.provenance
        changed = [key for key in ("python", "packages", "commit", "clean") if now[key] != before.get(key)]
        earlier = before.get("resumed")
        own = {"step": saved.step, "command": command, **{key: now[key] for key in changed}}
        self.provenance = {**before, "resumed": [*(earlier if isinstance(earlier, list) else []), own]}
        self.resumed = True
        if set(changed) & {"python", "packages"} and not self.replica:
            log.warning("the run began with other versions of packages, see provenance.json: last digits may differ")
        folder, keep = self.folder / "checkpoints", self.parts.trainer.keep
        if saved.config["dataset"] == self.parts.config["dataset"]:
            checkpoints.settle(saved, folder, keep)
        else:
            # Keep the new path of data that have moved, even if no step is left to train.
            files.write_yaml(self.folder / "config.yaml", self.parts.config)
            checkpoints.save(saved._replace(config=self.parts.config), folder, keep)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the run for TensorBoard until the context is left."""
        # Import late: TensorBoard and matplotlib take seconds, and errors in a configuration are reported before.
        from sdegen.runs.recorder import Recorder

        start, stop = self.training.step, self.training.steps
        self.recorder = Recorder(self.folder, start, stop, not self.resumed, silent=self.replica > 0)
        with self.recorder.session(flat_options(self.parts.config), files.as_yaml(self.parts.config)):
            yield

    def warn(self) -> None:
        """Log warnings about options that the user may not have meant."""
        if self.parts.trainer.precision == "bfloat16" and len(self.parts.dataset.units.shape) == 1:
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "use float32 for points"
            )
        for concern in self.parts.dataset.concerns():
            log.warning(concern)

    def save(self) -> None:
        """Write a checkpoint; raise UserError if the first checkpoint of the run cannot be read again."""
        training, dataset, held_out = self.training, self.parts.dataset, None
        # Skip the loss for a checkpoint that only an interruption caused: an uninterrupted run does not compute it.
        if training.steps and training.saves:
            held_out = self.held_out.loss(self.average)
        if held_out is not None:
            self.best = min(self.best, held_out)
            self.recorder.scalars(training.step, {"train/held_out_loss": held_out})
        checkpoints.save(
            Checkpoint(
                config=self.parts.config,
                step=training.step,
                seconds=training.seconds,
                weights=self.model.network.state_dict(),
                ema=self.average.network.state_dict(),
                optimizer=training.state(self.replica),
                units=dataset.units.state(),
                moments=None if self.parts.moments is None else self.parts.moments._asdict(),
                data=self.data,
                classes=dataset.classes,
                provenance=self.provenance,
                held_out=held_out,
                best=self.best,
                history=training.history(self.replica),
                stream=training.stream.variant,
            ),
            self.folder / "checkpoints",
            self.parts.trainer.keep,
        )
        if training.step == 0:
            self._read_back()

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
        """Record samples of the averaged network for TensorBoard, or the accuracy of a classifier."""
        from sdegen import figures, metrics
        from sdegen.runs import measures

        parts, step, dtype = self.parts, self.training.step, self.dtype
        dataset, device, average = parts.dataset, parts.trainer.device, self.average
        if isinstance(average, ClassifierModel):
            found, (times, curves) = measures.accuracy(dataset, average, device, dtype)
            if found:
                curve = list(zip(times, curves["held-out images"], strict=True))[::4]
                by_t = {f"accuracy_by_t/{float(t):.1f}": float(accuracy) for t, accuracy in curve}
                self.recorder.scalars(step, {**scalars(found), **by_t})
            return
        count = PREVIEWED["vectors" if len(dataset.units.shape) == 1 else "images"]
        try:
            samples = draw(parts.sde, average, parts.sampler, dataset.units, count, device=device, dtype=dtype)
        except UserError as trouble:
            # Early in the training, the steps of a sampler can diverge.
            log.warning(f"no preview at step {step}: {trouble}")
            return
        self.recorder.figure(step, "samples", figures.compare(dataset, dataset.units.decode(samples.x)))
        if step == self.training.steps:
            # The metrics of the finished run are computed next.
            return
        error = metrics.score_error(dataset, parts.sde, on_cpu(average, device, dtype))
        if error is not None:
            self.recorder.scalars(step, {"metrics/score_error": error})

    def finish(self) -> Run:
        """Write samples, metrics and figures, and return the trained run."""
        from sdegen.runs import results

        parts, training, folder, config = self.parts, self.training, self.folder, self.parts.config
        result = load(
            folder, device=str(parts.trainer.device), precision=parts.trainer.sampling_precision, trust=self.trust
        )
        if isinstance(result.model, ClassifierModel):
            self.metrics = results.write_accuracy(result, result.model, config["figures"])
        else:
            written = results.write(
                result, config["count"], seed=config["seed"], figures=config["figures"], animate=True
            )
            self.metrics = written.metrics
            # There are no figures with figures=false, or if the data can no longer be read.
            if (written.folder / "figures").is_dir():
                shutil.copytree(written.folder / "figures", folder / "figures", dirs_exist_ok=True)
                results.draw_score(result, folder / "figures")
        # Write the metrics twice: the table of runs shows only the first five scalars, and capitals sort first.
        self.recorder.final(training.steps, {**scalars(self.metrics), **scalars(self.metrics, "Final")})
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": machine.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**self.provenance, "training": cost})
        files.write_json(folder / "metrics.json", self.metrics)
        return result


def scalars(found: Mapping[str, Mapping[str, Any]], group: str = "metrics") -> dict[str, float]:
    """Returns metrics as a group of scalars for TensorBoard."""
    return {f"{group}/{name}": entry["value"] for name, entry in found.items()}
