"""Training of a run in its folder, from the beginning or from the last checkpoint."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from sdegen.config.components import together
from sdegen.config.compose import Config
from sdegen.core import schema
from sdegen.core.errors import Pruned, Stopped, Unwritable, UserError
from sdegen.core.messages import Lost
from sdegen.core.schema import Trust
from sdegen.runs import averages, files, locks, machine
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.follower import Follower
from sdegen.runs.interrupt import Interrupt
from sdegen.runs.pace import Pace
from sdegen.runs.run import Run
from sdegen.runs.teachers import replicated
from sdegen.runs.writer import Writer
from sdegen.training.history import Diverged

log = logging.getLogger("sdegen")

Watch = Callable[[int, float | None], bool]
"""Function that receives a step and the held-out loss, None if there is none, and returns True to end the training."""
RESUMABLE = (
    "trainer.steps",
    "trainer.epochs",
    "trainer.patience",
    "trainer.device",
    "dataset.path",
    "network.recompute",
    "objective.run",
)
"""Options that may change when a run is resumed."""


def train(
    config: Config,
    folder: Path,
    *,
    trust: Trust = schema.ANYTHING,
    resume: Sequence[Checkpoint] = (),
    command: str = "",
    watch: Watch | None = None,
) -> Run:
    """Train a run in its folder, then write samples, metrics and figures; return the run as :func:`sdegen.load` does.

    Args:
        config: resolved configuration of train.yaml, plain data.
        folder: the run's folder, in which each replica has a folder of its own.
        trust: modules whose classes the configuration may name; all modules if the user composed the configuration.
        resume: checkpoints of the run and of its replicas to continue from; empty for a new run.
        command: command line, which is recorded in ``provenance.json``.
        watch: function that may end the training early.

    Raises:
        Pruned: ``watch`` has ended the training; the message is like that of Stopped.
        Stopped: a signal arrived; the message names the saved step and the command that continues from it.
    """
    machine.forget_peak_memory()
    session = Session(config, folder, trust, resume, watch)
    try:
        with contextlib.ExitStack() as stack:
            for writer in session.writers:
                stack.enter_context(locks.claimed(writer.folder))
            session.prepare(command)
            interrupt = stack.enter_context(Interrupt())
            stack.enter_context(files.logging_to(folder / locks.LOG))
            for writer in session.writers:
                stack.enter_context(writer.recording())
            if not resume:
                session.evaluate()
                session.save()
            files.point_latest(folder)
            session.train(interrupt)
            return session.finish()
    except Stopped as stop:
        saved, again = session.left()
        raise Stopped(f"stopped by {stop}, {saved}", stop.number, again) from None
    except Lost as trouble:
        trouble.args = ("; ".join([str(trouble), *session.left()]),)
        raise
    except (Unwritable, OSError) as trouble:
        reason = (
            str(trouble) if isinstance(trouble, Unwritable) else f"{trouble.filename or folder}: {trouble.strerror}"
        )
        raise UserError("; ".join([reason, *session.left()])) from trouble


class Session:
    """Training of a run and of its replicas. Replicas are runs with the next seeds, trained together with the run.

    Attributes:
        writers: writers of the folders of the run and of its replicas, the run first.
        training: training of the run and of its replicas.
        saved: step of the last checkpoint; None before the first checkpoint.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        trust: Trust,
        resume: Sequence[Checkpoint] = (),
        watch: Watch | None = None,
    ) -> None:
        self.folder, self._resumed, self._watch, self._pruned = folder, resume, watch, False
        self._trust, self._shared = trust, False
        self.saved = resume[0].step if resume else None
        parts = replicated(config, trust, [one.known_moments() for one in resume])
        if resume and len(resume) != len(parts):
            found = f"{len(resume) - 1} replicas, and trainer.replicas={len(parts)} needs {len(parts) - 1}"
            raise UserError(f"{folder / files.REPLICAS}: holds {found}: copy the whole folder of the run")
        self.training, self.trainer = together(parts), parts[0].trainer
        # Random numbers depend on the device and rounding on the threads, so a resumed run must use the same values.
        self.threads = torch.get_num_threads()
        chosen = {"device": str(self.trainer.device), "threads": self.threads, "gradient": self.training.gradient.name}
        self.writers = []
        for replica, one in enumerate(parts):
            one.config["trainer"] = {**one.config["trainer"], **chosen, "replicas": 1 if replica else len(parts)}
            own = folder / files.REPLICAS / f"seed-{one.config['seed']}" if replica else folder
            self.writers.append(Writer(one, self.training, replica, own, trust))

    def left(self) -> tuple[str, str]:
        """Returns a message with the saved step, and one with the command that continues the run."""
        if self.saved is None:
            return "nothing was saved yet", "start the run again"
        return f"saved at step {self.saved}", f"continue with sdegen train resume={shlex.quote(str(self.folder))}"

    def prepare(self, command: str) -> None:
        """Begin the folders of a new run, or restore the state of a resumed one."""
        if not self._resumed:
            for writer in self.writers:
                writer.begin(command)
            self._share()
            return
        step, steps = self._resumed[0].step, self.training.steps
        first, patience, more = self.writers[0], self.trainer.patience, "trainer.steps=…"
        first.learning.curve.restore(self._resumed[0].curve)
        if step < steps and first.learning.has_patience_ended(step):
            steps = self.training.steps = step
            more = f"a larger trainer.patience than {patience}, or null,"
        # Continue a run that was killed after the last step, because its samples are missing.
        if step > steps or (step == steps and (self.folder / "metrics.json").exists()):
            done = f"the run finished at step {step}; set {more} for more" if steps else "the score is exact"
            raise UserError(f"resume={self.folder}: nothing to do: {done}")
        for writer, saved in zip(self.writers, self._resumed, strict=True):
            writer.check_data(saved)
        self._restore(self._resumed, self._resumed[0].stream)
        for writer, saved in zip(self.writers, self._resumed, strict=True):
            writer.resume(saved, command)
        self._share()

    def _restore(self, saved: Sequence[Checkpoint], variant: int) -> None:
        """Restore one checkpoint for each writer, and set the variant of the noise of the next steps."""
        for writer, own in zip(self.writers, saved, strict=True):
            writer.restore(own)
        first, states, histories = saved[0], [own.optimizer for own in saved], [own.history for own in saved]
        weightings = [own.weighting for own in saved]
        self.training.restore(states, histories, weightings, first.step, first.seconds, variant)
        self.saved = first.step
        for writer in self.writers:
            averages.forget(writer.folder, first.step)

    def save(self) -> None:
        """Write checkpoints of the replicas and then of the run, so that the run's last step is saved for all."""
        for writer in reversed(self.writers):
            writer.save()
        self.saved = self.training.step

    def evaluate(self) -> None:
        """Record the held-out losses, and end the training if the patience of the trainer has ended."""
        if not self.training.steps:
            return
        losses = [writer.evaluate() for writer in self.writers]
        if self.writers[0].learning.has_patience_ended(self.training.step):
            self.training.finish()
        if self._watch is not None:
            known = [loss for loss in losses if loss is not None]
            asked = self._watch(self.training.step, fmean(known) if len(known) == len(losses) else None)
            self._pruned = asked and self.training.step < self.training.steps

    def train(self, interrupt: Interrupt) -> None:
        """Train to the last step. After a divergence, retry from the last checkpoint if ``trainer.retries`` allows."""
        training = self.training
        self.writers[0].warn()
        log.info(self._plan())
        if training.step == training.steps:
            return
        pace = Pace(training.step, training.steps, self.writers[0].parts.config, training.vector.numel())

        def asked() -> bool:
            self.writers[0].recorder.reached(training.step)
            if message := pace.message(training.step, time.perf_counter()):
                log.info(message)
            return interrupt.asked() or self._pruned

        while training.step < training.steps:
            try:
                with interrupt.noted():
                    every = self.writers[0].learning.curve.interval(training.steps)
                    training.run(self._record, self.save, self._preview, asked, self.evaluate, every, self._snapshot)
            except Diverged as trouble:
                self._retry(trouble)
            if training.stopped:
                raise Stopped("a signal to another process", signal.SIGTERM)
            if self._pruned:
                raise Pruned(f"pruned, {'; '.join(self.left())}")
        log.info(f"trained in {training.seconds:.1f} s, not counting held-out losses, previews and checkpoints")

    def _share(self) -> None:
        """Give the other processes of this command the training in its present state."""
        parts, group = [writer.parts for writer in self.writers], self.training.processes
        if group.size == 1:
            return
        if not self._shared:
            moments, data = [one.moments for one in parts], [writer.data for writer in self.writers]
            group.partners(Follower, parts[0].config, self._trust, moments, data)
            self._shared = True
        group.call("restore", self.training.shared())
        group.returned()

    def _plan(self) -> str:
        """Returns a message with the steps to train, the folder and the device."""
        training, steps = self.training, self.training.steps
        where = f"in {self.folder}, on {self.trainer.device}"
        if self.trainer.device.type == "cpu":
            where += f", {self.threads} thread{'s' * (self.threads > 1)}"
        if (size := training.processes.size) > 1:
            where += f", {size} processes"
        if self.trainer.shards:
            where += f", {self.trainer.shards} shards"
        if not steps:
            return f"the score is exact: nothing to train; {where}"
        if training.step == steps:
            return f"already trained, steps 0 to {steps}, {where}"
        return f"training {training.vector.numel()} parameters, steps {training.step} to {steps}, {where}"

    def _retry(self, trouble: Diverged) -> None:
        """Return to the last checkpoint, and continue with another variant of the noise."""
        seed = self.writers[trouble.replica].parts.config["seed"]
        reason = f"seed {seed}: {trouble}" if len(self.writers) > 1 else str(trouble)
        tried, retries = self.training.stream.variant, self.trainer.retries
        if tried >= retries:
            message = f"{reason}; the checkpoint of step {self.saved} was saved before"
            raise Diverged(message, trouble.replica) from None
        # Only a run without replicas has retries.
        saved = checkpoints.newest(self.folder)
        log.warning(f"{reason}; retry {tried + 1} of {retries}, from step {saved[0].step}")
        self._restore(saved, tried + 1)
        self._share()
        self.writers[0].recorder.rewind(saved[0].step)

    def _record(self, step: int, values: Sequence[Mapping[str, float]]) -> None:
        for writer, own in zip(self.writers, values, strict=True):
            writer.recorder.progress(step, {**own, **writer.learning.scaled(own["train/loss"])})

    def _snapshot(self) -> None:
        for writer in self.writers:
            writer.snapshot()

    def _preview(self) -> None:
        for writer in self.writers:
            writer.preview()

    def finish(self) -> Run:
        """Write samples, metrics and figures of the replicas and then of the run; return the run."""
        several = len(self.writers) > 1
        for writer in reversed(self.writers):
            if several:
                log.info(f"seed {writer.parts.config['seed']}, in {writer.folder}")
            result = writer.finish()
        if several:
            log.info(spread([writer.metrics for writer in self.writers]))
        return result


def spread(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Returns the metrics of several seeds as lines of text, with the mean, deviation, lowest and highest value."""
    lines = [f"over {len(found)} seeds{'mean':>11}{'deviation':>11}{'lowest':>10}{'highest':>10}"]
    for name in found[0]:
        values = [metrics[name]["value"] for metrics in found]
        cells = f"{fmean(values):>10.4g}{stdev(values):>11.2g}{min(values):>10.4g}{max(values):>10.4g}"
        lines.append(f"{name:<13}{cells}")
    return "\n".join(lines)


def resume(
    folder: Path, changes: Mapping[str, Any], trust: Trust = (), command: str = "", watch: Watch | None = None
) -> Run:
    """Continue a run from its last checkpoint, in its own folder. An interruption does not change a bit of the result.

    The folder may be ``…/latest``. ``changes`` are new values of :data:`RESUMABLE` options, by path. Change
    ``dataset.path`` only if the same data have moved to another file. ``command`` is recorded as for :func:`train`.
    ``watch`` may end the training early.
    """
    if foreign := [path for path in changes if path not in RESUMABLE]:
        raise UserError(f"{foreign[0]}: cannot change on resume: leave it out; only {', '.join(RESUMABLE)} can change")
    folder = files.resolve(folder)
    # Sort by the seed, which is the end of the name.
    replicas = sorted((folder / files.REPLICAS).glob("seed-*"), key=lambda path: (len(path.name), path.name))
    saved = checkpoints.newest(folder, replicas)
    for one in saved:
        checkpoints.examine(folder, one, trust)
    config = saved[0].config
    if "trainer.epochs" in changes and "trainer.steps" not in changes:
        changes = {**changes, "trainer.steps": None}
    for path, value in changes.items():
        group, _, option = path.partition(".")
        if option not in config[group]:
            raise UserError(f"{path}: the run has no such option: leave it out")
        config = {**config, group: {**config[group], option: value}}
    return train(config, folder, trust=trust, resume=saved, command=command, watch=watch)
