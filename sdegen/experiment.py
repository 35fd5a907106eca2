"""Training an experiment: from a configuration to a run's folder, and on from where one stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sdegen import checkpoint as checkpoints
from sdegen import files, schema
from sdegen.assembly import Config, Experiment, flat_options, replicated, together, work
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
    """Train into a run's folder, then sample, measure and draw there; replicas each in a folder of their own in it.

    Args:
        config: a configuration of train.yaml, resolved, plain.
        folder: the run's folder.
        trust: modules whose classes the configuration may name; any, where the user has composed it himself.
        resume: where to go on, from the same folder.
        command: the command line, for the record.

    Returns:
        The trained run, as :func:`load` gives it.
    """
    files.forget_peak_memory()
    parts = replicated(config, trust)
    training, trainer = together(parts), parts[0].trainer
    # Generators differ between kinds of device, sums between numbers of threads: what was chosen is what is resumed.
    threads = torch.get_num_threads()
    chosen = {"device": str(trainer.device), "threads": threads, "gradient": training.gradient.name}
    members = []
    for replica, one in enumerate(parts):
        one.config["trainer"] = {**one.config["trainer"], **chosen, "replicas": 1 if replica else len(parts)}
        own = folder / files.REPLICAS / f"seed-{one.config['seed']}" if replica else folder
        members.append(Member(one, training, replica, own, trust))
    if resume is None:
        for member in members:
            member.begin(command)
    else:
        states = [member.restore(resume) for member in members]
        training.restore(states, resume.step, resume.seconds)
    checkpoints.point_latest(folder)
    steps, first = training.steps, members[0]
    where = f"in {folder}, on {trainer.device}"
    if trainer.device.type == "cpu":
        where += f", {threads} thread{'s' * (threads != 1)} for {work(parts) / 1e6:.3g} million operations a pass"
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.logging_to(folder / "train.log"))
        for member in members:
            stack.enter_context(member.recording())
        first.warn()

        def note(step: int, values: list[dict[str, float]]) -> None:
            for member, own in zip(members, values, strict=True):
                member.note(step, own)

        def save() -> None:
            # What the first has, all have.
            for member in reversed(members):
                member.save()

        def preview() -> None:
            for member in members:
                member.preview()

        if steps and training.step < steps:
            with Interrupt() as interrupt:
                log.info(f"training {training.vector.numel()} parameters, steps {training.step} to {steps}, {where}")
                training.run(note, save, preview, interrupt.asked)
            if training.step < steps:
                raise KeyboardInterrupt(f"interrupted and saved at step {training.step}; go on with resume={folder}")
            log.info(f"trained in {training.seconds:.1f} s, without previews and checkpoints")
        elif steps:
            log.info(f"trained before, steps 0 to {steps}, {where}")
        else:
            log.info(f"the score is exact, there is nothing to train; {where}")
            save()
        # The first last: once it has its metrics, all have.
        for member in reversed(members):
            if len(members) > 1:
                log.info(f"seed {member.parts.config['seed']}, in {member.folder}")
            result = member.finish()
        if len(members) > 1:
            log.info(spread([member.metrics for member in members]))
    return result


def spread(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """The metrics of several seeds as lines of text: median, and from where to where they go."""
    lines = [f"over {len(found)} seeds{'median':>11}{'lowest':>10}{'highest':>10}"]
    for name in found[0]:
        values = [metrics[name]["value"] for metrics in found]
        lines.append(f"{name:<13}" + "".join(f"{value:>10.4g}" for value in (median(values), min(values), max(values))))
    return "\n".join(lines)


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
        self.provenance: dict[str, Any] = {}
        self.metrics: Mapping[str, Mapping[str, Any]] = {}

    def begin(self, command: str) -> None:
        """Begin the folder."""
        folder = self.folder
        if (folder / "checkpoints").exists():
            raise UserError(f"{folder}: holds a run already: remove it, or go on with it by resume={folder}")
        self.provenance = files.provenance(command)
        files.write_yaml(folder / "config.yaml", self.parts.config)
        files.write_json(folder / "provenance.json", self.provenance)

    def restore(self, first: Checkpoint) -> dict[str, Any]:
        """Put the weights of a checkpoint in place: that of the first replica, or the replica's own of the same step.

        Returns:
            The state of the optimiser.
        """
        folder, steps = self.folder, self.training.steps
        saved = checkpoints.load(checkpoints.find(folder, first.step)) if self.replica else first
        if not self.replica and saved.step >= steps and (folder / "metrics.json").exists():
            asked = f"has taken {saved.step} steps and is to take {steps}: ask for more by trainer.steps="
            raise UserError(f"resume={folder}: {asked if steps else 'has nothing to train: its score is exact'}")
        self.provenance = saved.provenance
        load_weights(self.training.models[self.replica].network, saved.weights)
        load_weights(self.training.averages[self.replica].network, saved.ema)
        return saved.optimizer

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """While it is entered, TensorBoard is told what the run is and does."""
        # Late: TensorBoard and matplotlib cost seconds for which an error in the configuration need not wait.
        from sdegen.recorder import Recorder

        self.recorder = Recorder(self.folder, self.training.step, self.training.steps, silent=self.replica > 0)
        with self.recorder.session(flat_options(self.parts.config), files.as_yaml(self.parts.config)):
            yield

    def warn(self) -> None:
        """Tell what the user might not have meant."""
        if self.parts.trainer.precision == "bfloat16" and len(self.parts.dataset.units.shape) == 1:
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "points want float32"
            )

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Record the scalars of the training."""
        self.recorder.progress(step, values)

    def save(self) -> None:
        """Write a checkpoint."""
        training, dataset = self.training, self.parts.dataset
        checkpoints.save(
            Checkpoint(
                config=self.parts.config,
                step=training.step,
                seconds=training.seconds,
                weights=training.models[self.replica].network.state_dict(),
                ema=training.averages[self.replica].network.state_dict(),
                optimizer=training.state(self.replica),
                units=dataset.units._asdict(),
                classes=dataset.classes,
                provenance=self.provenance,
            ),
            self.folder / "checkpoints",
        )

    def preview(self) -> None:
        """Show samples of the average, or what a classifier is worth."""
        from sdegen import figures, metrics, output

        parts, step, dtype = self.parts, self.training.step, self.dtype
        dataset, device, average = parts.dataset, parts.trainer.device, self.training.averages[self.replica]
        if isinstance(average, ClassifierModel):
            found, (times, curves) = output.accuracy(dataset, average, device, dtype)
            held_out = next(iter(curves.values()))
            by_t = {f"accuracy_by_t/{float(t):.1f}": float(held_out[i]) for i, t in list(enumerate(times))[::4]}
            self.recorder.scalars(step, {**scalars(found), **by_t})
            return
        count = PREVIEWED["vectors" if len(dataset.units.shape) == 1 else "images"]
        samples = draw(parts.sde, average, parts.sampler, dataset.units, count, device=device, dtype=dtype)
        self.recorder.figure(step, "samples", figures.compare(dataset, dataset.units.decode(samples.x)))
        if step == self.training.steps:
            # The metrics of the finished run come in a moment.
            return
        error = metrics.score_error(dataset, parts.sde, on_cpu(average, device, dtype))
        if error is not None:
            self.recorder.scalars(step, {"metrics/score_error": error})

    def finish(self) -> Run:
        """Sample, measure and draw."""
        from sdegen import figures, output

        parts, training, folder, config = self.parts, self.training, self.folder, self.parts.config
        result = load(
            folder, device=str(parts.trainer.device), precision=parts.trainer.sampling_precision, trust=self.trust
        )
        if isinstance(result.model, ClassifierModel):
            written = output.write_accuracy(result, result.model)
        else:
            written = output.write(result, config["count"], seed=config["seed"], animate=True)
            files.copy(written.folder / "figures", folder / "figures")
            for name, figure in output.draw_score(result).items():
                figures.save(figure, folder / "figures" / f"{name}.png")
        # Twice: of all scalars the table of runs shows the first five, and capitals come first in the alphabet.
        self.recorder.scalars(training.steps, {**scalars(written.metrics), **scalars(written.metrics, "Final")})
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": files.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**self.provenance, "training": cost})
        files.write_json(folder / "metrics.json", written.metrics)
        self.metrics = written.metrics
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
