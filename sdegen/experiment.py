"""Training an experiment: from a configuration to a run's folder, and on from where one stopped."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdegen import checkpoint as checkpoints
from sdegen import files, schema
from sdegen.assembly import Config, build, flat_options
from sdegen.checkpoint import Checkpoint
from sdegen.classifier import ClassifierModel
from sdegen.errors import UserError
from sdegen.run import Run, load, load_weights, on_cpu, plain
from sdegen.sampling import draw
from sdegen.training import DTYPES, Training

log = logging.getLogger("sdegen")

PREVIEWED = {"vectors": 1000, "images": 64}
"""Samples of a preview."""


def train(
    config: Config,
    folder: Path,
    *,
    trust: Sequence[str] = schema.ANYTHING,
    resume: Checkpoint | None = None,
    command: str = "",
) -> Run:
    """Train into a run's folder, then sample, measure and draw there.

    Args:
        config: a configuration of train.yaml, resolved, plain.
        folder: the run's folder.
        trust: modules whose classes the configuration may name; any, where the user has composed it himself.
        resume: where to go on, from the same folder.
        command: the command line, for the record.

    Returns:
        The trained run, as :func:`load` gives it.
    """
    # Late: TensorBoard and matplotlib cost seconds for which an error in the configuration need not wait.
    from sdegen import figures, metrics, output
    from sdegen.recorder import Recorder

    files.forget_peak_memory()
    parts = build(config, trust)
    config, trainer, dataset = parts.config, parts.trainer, parts.dataset
    # Generators differ between kinds of device, sums between numbers of threads: what was chosen is what is resumed.
    dtype, training = DTYPES[trainer.precision], parts.training()
    chosen = {"device": str(trainer.device), "threads": trainer.threads, "gradient": training.gradient.name}
    config["trainer"] = {**config["trainer"], **chosen}
    steps = training.steps
    trainable = steps > 0
    if resume is None:
        if (folder / "checkpoints").exists():
            raise UserError(f"{folder}: holds a run already: remove it, or go on with it by resume={folder}")
        provenance = files.provenance(command)
        files.write_yaml(folder / "config.yaml", config)
        files.write_json(folder / "provenance.json", provenance)
    else:
        provenance = resume.provenance
        restore(training, resume)
        if training.step >= steps and (folder / "metrics.json").exists():
            asked = f"has taken {training.step} steps and is to take {steps}: ask for more by trainer.steps="
            raise UserError(f"resume={folder}: {asked if trainable else 'has nothing to train: its score is exact'}")
    checkpoints.point_latest(folder)

    def save() -> None:
        checkpoints.save(
            Checkpoint(
                config=config,
                step=training.step,
                seconds=training.seconds,
                weights=training.model.network.state_dict(),
                ema=training.average.network.state_dict(),
                optimizer=training.optimizer.state_dict(),
                units=dataset.units._asdict(),
                classes=dataset.classes,
                provenance=provenance,
            ),
            folder / "checkpoints",
        )

    def preview() -> None:
        if isinstance(training.average, ClassifierModel):
            found, (times, curves) = output.accuracy(dataset, training.average, trainer.device, dtype)
            held_out = next(iter(curves.values()))
            by_t = {f"accuracy_by_t/{float(t):.1f}": float(held_out[i]) for i, t in list(enumerate(times))[::4]}
            recorder.scalars(training.step, {**scalars(found), **by_t})
            return
        count = PREVIEWED["vectors" if len(dataset.units.shape) == 1 else "images"]
        samples = draw(
            parts.sde, training.average, parts.sampler, dataset.units, count, device=trainer.device, dtype=dtype
        )
        recorder.figure(training.step, "samples", figures.compare(dataset, dataset.units.decode(samples.x)))
        if training.step == steps:
            # The metrics of the finished run come in a moment.
            return
        error = metrics.score_error(dataset, parts.sde, on_cpu(training.average, trainer.device, dtype))
        if error is not None:
            recorder.scalars(training.step, {"metrics/score_error": error})

    where = f"in {folder}, on {trainer.device}"
    recorder = Recorder(folder, training.step, steps)
    session = recorder.session(flat_options(config), files.as_yaml(config))
    with files.logging_to(folder / "train.log"), session:
        if trainer.precision == "bfloat16" and len(dataset.units.shape) == 1:
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "points want float32"
            )
        if trainable and training.step < steps:
            with Interrupt() as interrupt:
                log.info(f"training {training.vector.numel()} parameters, steps {training.step} to {steps}, {where}")
                training.run(recorder.progress, save, preview, interrupt.asked)
            if training.step < steps:
                raise KeyboardInterrupt(f"interrupted and saved at step {training.step}; go on with resume={folder}")
            log.info(f"trained in {training.seconds:.1f} s, without previews and checkpoints")
        elif trainable:
            log.info(f"trained before, steps 0 to {steps}, {where}")
        else:
            log.info(f"the score is exact, there is nothing to train; {where}")
            save()
        result = load(folder, device=str(trainer.device), precision=trainer.sampling_precision, trust=trust)
        if isinstance(result.model, ClassifierModel):
            written = output.write_accuracy(result, result.model)
        else:
            written = output.write(result, config["count"], seed=config["seed"], animate=True)
            files.copy(written.folder / "figures", folder / "figures")
            for name, figure in output.draw_score(result).items():
                figures.save(figure, folder / "figures" / f"{name}.png")
        # Twice: of all scalars the table of runs shows the first five, and capitals come first in the alphabet.
        recorder.scalars(steps, {**scalars(written.metrics), **scalars(written.metrics, "Final")})
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": files.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**provenance, "training": cost})
        files.write_json(folder / "metrics.json", written.metrics)
    return result


def scalars(found: Mapping[str, Mapping[str, Any]], group: str = "metrics") -> dict[str, float]:
    """Metrics as TensorBoard shows them, in a group of its scalars."""
    return {f"{group}/{name}": entry["value"] for name, entry in found.items()}


def resume(folder: Path, changes: Mapping[str, Any], trust: Sequence[str] = ()) -> Run:
    """Go on with a run from its last checkpoint, bit for bit, in its own folder.

    Args:
        folder: the run's folder, or ``…/latest``.
        changes: options of the trainer to change: ``steps``, ``epochs``, ``device``.
        trust: modules whose classes the checkpoint's configuration may name, beside the package's own.
    """
    folder = checkpoints.resolve(folder)
    saved = checkpoints.load(checkpoints.find(folder))
    config = plain(saved.config)
    if "epochs" in changes and "steps" not in changes:
        changes = {**changes, "steps": None}
    return train({**config, "trainer": {**config["trainer"], **changes}}, folder, trust=trust, resume=saved)


class Interrupt:
    """While it is entered, a first Ctrl-C is only noted, so that a step is finished and saved; a second one stops."""

    def __init__(self) -> None:
        self._asked = False

    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked

    def __enter__(self) -> Interrupt:
        # Signals can be handled in the main thread alone; elsewhere nothing is noted.
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def restore(training: Training, saved: Checkpoint) -> None:
    """Put a checkpoint's state into a training, strictly."""
    load_weights(training.model.network, saved.weights)
    load_weights(training.average.network, saved.ema)
    training.optimizer.load_state_dict(saved.optimizer)
    training.step, training.seconds = saved.step, saved.seconds
