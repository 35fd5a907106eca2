"""A run under training: its folder, and what is written there."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdegen.config.assembly import Experiment, flat_options
from sdegen.core.errors import UserError
from sdegen.datasets.fingerprint import difference
from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import Gaussian, ScoreModel
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import files
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.run import Run, load, load_weights
from sdegen.runs.sampling import draw, on_cpu
from sdegen.training.loop import DTYPES, Training

log = logging.getLogger("sdegen")

PREVIEWED = {"vectors": 1000, "images": 64}
"""Samples of a preview."""


class Member:
    """A run under training: its folder, and what is written there.

    Args:
        parts: of the run.
        training: what trains it.
        replica: which of the training's networks is its own; only the first tells how far the training is.
        folder: the run's folder.
        trust: modules whose classes the configuration may name.
    """

    def __init__(self, parts: Experiment, training: Training, replica: int, folder: Path, trust: Sequence[str]) -> None:
        self.parts, self.training, self.replica, self.folder, self.trust = parts, training, replica, folder, trust
        self.dtype = DTYPES[parts.trainer.precision]
        self.held_out = parts.held_out()
        self.provenance: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.best = math.inf
        self.resumed = False
        self.metrics: Mapping[str, Mapping[str, Any]] = {}

    def begin(self, command: str) -> None:
        """Begin the folder."""
        folder = self.folder
        # A replica is saved before the first: what the first has not saved once, is left by an attempt.
        if not self.replica and any((folder / "checkpoints").glob("*.pt")):
            raise UserError(f"{folder}: holds a run already: remove it, or go on with it by resume={folder}")
        self.provenance, self.data = files.provenance(command), self.parts.fingerprint()
        files.write_yaml(folder / "config.yaml", self.parts.config)
        files.write_json(folder / "provenance.json", self.provenance)

    def check_data(self, saved: Checkpoint) -> None:
        """UserError where the data are not those that a checkpoint was trained on."""
        self.data = self.parts.fingerprint()
        if found := difference(saved.data, self.data):
            moved = ": give the file they are in now by dataset.path=" if "path" in self.parts.config["dataset"] else ""
            raise UserError(f"resume={self.folder}: the data are not those it was trained on: {found}{moved}")

    def find(self, first: Checkpoint) -> Checkpoint:
        """The checkpoint to go on from: that of the first replica, or the replica's own of the same step."""
        return checkpoints.read(self.folder, first.step) if self.replica else first

    def put(self, saved: Checkpoint) -> None:
        """Put the weights of a checkpoint in place, and the moments that they were trained with.

        On another machine the same data may have axes of other signs.
        """
        self.best = saved.best
        if saved.moments is not None:
            moments = Moments(**saved.moments)  # type: ignore[arg-type]
            self.parts = self.parts._replace(moments=moments)
            for model in (self.training.models[self.replica], self.training.averages[self.replica]):
                if isinstance(model, ScoreModel) and isinstance(model.parametrization, Gaussian):
                    model.parametrization.put(moments)
        load_weights(self.training.models[self.replica].network, saved.weights)
        load_weights(self.training.averages[self.replica].network, saved.ema)

    def go_on(self, saved: Checkpoint) -> None:
        """Go on in the folder, its checkpoint in place; tell where the versions are not those it began under."""
        now, before = files.provenance(""), saved.provenance
        self.provenance, self.resumed = before, True
        changed = [key for key in ("python", "packages", "commit", "clean") if now[key] != before.get(key)]
        if changed:
            earlier = before.get("resumed")
            own = {"step": saved.step, **{key: now[key] for key in changed}}
            self.provenance = {**before, "resumed": [*(earlier if isinstance(earlier, list) else []), own]}
        if set(changed) & {"python", "packages"} and not self.replica:
            log.warning("the run began under other versions, which provenance.json has: its numbers may differ in bits")
        folder, keep = self.folder / "checkpoints", self.parts.trainer.keep
        if saved.config["dataset"] == self.parts.config["dataset"]:
            checkpoints.settle(saved, folder, keep)
        else:
            # Data that have moved are looked for where they are now, also where no step is left.
            files.write_yaml(self.folder / "config.yaml", self.parts.config)
            checkpoints.save(saved._replace(config=self.parts.config), folder, keep)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """While it is entered, TensorBoard is told what the run is and does."""
        # Late: TensorBoard and matplotlib cost seconds for which an error in the configuration need not wait.
        from sdegen.runs.recorder import Recorder

        start, stop = self.training.step, self.training.steps
        self.recorder = Recorder(self.folder, start, stop, not self.resumed, silent=self.replica > 0)
        with self.recorder.session(flat_options(self.parts.config), files.as_yaml(self.parts.config)):
            yield

    def warn(self) -> None:
        """Tell what the user might not have meant."""
        if self.parts.trainer.precision == "bfloat16" and len(self.parts.dataset.units.shape) == 1:
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "points want float32"
            )
        for concern in self.parts.dataset.concerns():
            log.warning(concern)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Record the scalars of the training."""
        self.recorder.progress(step, values)

    def save(self) -> None:
        """Write a checkpoint."""
        training, dataset, held_out = self.training, self.parts.dataset, None
        # Not at a step at which a run that is not interrupted would not ask.
        if training.steps and training.saves:
            held_out = self.held_out.loss(training.averages[self.replica])
        if held_out is not None:
            self.best = min(self.best, held_out)
            self.recorder.scalars(training.step, {"train/held_out_loss": held_out})
        checkpoints.save(
            Checkpoint(
                config=self.parts.config,
                step=training.step,
                seconds=training.seconds,
                weights=training.models[self.replica].network.state_dict(),
                ema=training.averages[self.replica].network.state_dict(),
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

    def read_back(self) -> None:
        """Read the checkpoint that was just written; UserError where that would be refused on going on."""
        name = self.parts.config["network"]["_target_"]
        try:
            saved = checkpoints.load(checkpoints.find(self.folder, self.training.step))
            examine(self.folder, saved, self.trust)
            load_weights(self.training.averages[self.replica].network, saved.ema)
        except UserError as error:
            raise UserError(f"network: the state_dict of {name} cannot be saved and read again: {error}") from None

    def preview(self) -> None:
        """Show samples of the average, or what a classifier is worth."""
        from sdegen import figures, metrics
        from sdegen.runs import measures

        parts, step, dtype = self.parts, self.training.step, self.dtype
        dataset, device, average = parts.dataset, parts.trainer.device, self.training.averages[self.replica]
        if isinstance(average, ClassifierModel):
            found, (times, curves) = measures.accuracy(dataset, average, device, dtype)
            held_out = next(iter(curves.values()))
            by_t = {f"accuracy_by_t/{float(t):.1f}": float(held_out[i]) for i, t in list(enumerate(times))[::4]}
            if found:
                self.recorder.scalars(step, {**scalars(found), **by_t})
            return
        count = PREVIEWED["vectors" if len(dataset.units.shape) == 1 else "images"]
        try:
            samples = draw(parts.sde, average, parts.sampler, dataset.units, count, device=device, dtype=dtype)
        except UserError as trouble:
            # A network that has learned little may be more than a sampler can bear.
            log.warning(f"no preview at step {step}: {trouble}")
            return
        self.recorder.figure(step, "samples", figures.compare(dataset, dataset.units.decode(samples.x)))
        if step == self.training.steps:
            # The metrics of the finished run come in a moment.
            return
        error = metrics.score_error(dataset, parts.sde, on_cpu(average, device, dtype))
        if error is not None:
            self.recorder.scalars(step, {"metrics/score_error": error})

    def finish(self) -> Run:
        """Sample, measure and draw."""
        from sdegen import figures
        from sdegen.runs import drawing, results

        parts, training, folder, config = self.parts, self.training, self.folder, self.parts.config
        result = load(
            folder, device=str(parts.trainer.device), precision=parts.trainer.sampling_precision, trust=self.trust
        )
        if isinstance(result.model, ClassifierModel):
            self.metrics = results.write_accuracy(result, result.model)
        else:
            written = results.write(result, config["count"], seed=config["seed"], animate=True)
            files.copy(written.folder / "figures", folder / "figures")
            learned = not result.model.network.exact
            shown = drawing.of_score(result.dataset, result.sde, result.score_on_cpu(), learned=learned)
            for name, figure in shown.items():
                figures.save(figure, folder / "figures" / f"{name}.png")
            self.metrics = written.metrics
        # Twice: of all scalars the table of runs shows the first five, and capitals come first in the alphabet.
        self.recorder.final(training.steps, {**scalars(self.metrics), **scalars(self.metrics, "Final")})
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": files.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**self.provenance, "training": cost})
        files.write_json(folder / "metrics.json", self.metrics)
        return result


def scalars(found: Mapping[str, Mapping[str, Any]], group: str = "metrics") -> dict[str, float]:
    """Metrics as TensorBoard shows them, in a group of its scalars."""
    return {f"{group}/{name}": entry["value"] for name, entry in found.items()}
