"""Training an experiment: from a configuration to a run's folder, and on from where one stopped."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from sdegen.config.assembly import Config, replicated, together, work
from sdegen.core import schema
from sdegen.core.errors import Stopped, Unwritable, UserError
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import files
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.interrupt import Interrupt
from sdegen.runs.run import Run
from sdegen.runs.writer import Member
from sdegen.training.history import Diverged

log = logging.getLogger("sdegen")


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

    Raises:
        Stopped: by a signal; what is saved and how to go on is told.
    """
    files.forget_peak_memory()
    team = Team(config, folder, trust)
    try:
        with contextlib.ExitStack() as stack:
            for member in team.members:
                stack.enter_context(files.claimed(member.folder))
            if resume is None:
                team.begin(command)
            else:
                team.go_on(resume)
            interrupt = stack.enter_context(Interrupt())
            stack.enter_context(files.logging_to(folder / files.LOG))
            for member in team.members:
                stack.enter_context(member.recording())
            if resume is None:
                team.save()
                for member in team.members:
                    member.read_back()
            checkpoints.point_latest(folder)
            team.train(interrupt)
            return team.finish()
    except Stopped as stop:
        raise Stopped(f"stopped by {stop}, {team.left()}", stop.number) from None
    except (Unwritable, OSError) as trouble:
        told = trouble if isinstance(trouble, Unwritable) else f"{trouble.filename or folder}: {trouble.strerror}"
        raise UserError(f"{told}; {team.left()}") from trouble


class Team:
    """A run, and those of the seeds that follow its own, under one training.

    Args:
        config: of the run.
        folder: of the run; the others' are in it.
        trust: modules whose classes the configuration may name.

    Attributes:
        members: all of them, the run first.
        training: theirs.
        saved: the step of the last checkpoint; None before the first.
    """

    def __init__(self, config: Config, folder: Path, trust: Sequence[str]) -> None:
        parts = replicated(config, trust)
        self.folder, self.training, self.trainer = folder, together(parts), parts[0].trainer
        self.saved: int | None = None
        self.work = work(parts)
        # Generators differ between devices, sums between numbers of threads: what was chosen is what is resumed.
        self.threads = torch.get_num_threads()
        chosen = {"device": str(self.trainer.device), "threads": self.threads, "gradient": self.training.gradient.name}
        self.members = []
        for replica, one in enumerate(parts):
            one.config["trainer"] = {**one.config["trainer"], **chosen, "replicas": 1 if replica else len(parts)}
            own = folder / files.REPLICAS / f"seed-{one.config['seed']}" if replica else folder
            self.members.append(Member(one, self.training, replica, own, trust))

    def left(self) -> str:
        """What there is to go on from, and how."""
        if self.saved is None:
            return "nothing was saved yet"
        return f"saved at step {self.saved}; go on with sdegen train resume={shlex.quote(str(self.folder))}"

    def begin(self, command: str) -> None:
        """Begin the folders."""
        for member in self.members:
            member.begin(command)

    def go_on(self, first: Checkpoint) -> None:
        """Go on from a checkpoint of the first; UserError where all is done."""
        steps = self.training.steps
        # One that was killed when it had taken its last step still has its samples to draw.
        if first.step > steps or (first.step == steps and (self.folder / "metrics.json").exists()):
            asked = f"has taken {first.step} steps and is to take {steps}: ask for more by trainer.steps="
            raise UserError(f"resume={self.folder}: {asked if steps else 'has nothing to train: its score is exact'}")
        for member in self.members:
            member.check_data(member.find(first))
        for member, saved in zip(self.members, self._restore(first, first.stream), strict=True):
            member.go_on(saved)

    def _restore(self, first: Checkpoint, variant: int) -> list[Checkpoint]:
        """Put a checkpoint of the first in place, and the others' of its step; they are given back."""
        saved = [member.find(first) for member in self.members]
        for member, own in zip(self.members, saved, strict=True):
            member.put(own)
        states, histories = [own.optimizer for own in saved], [own.history for own in saved]
        self.training.restore(states, histories, first.step, first.seconds, variant)
        self.saved = first.step
        return saved

    def save(self) -> None:
        """Write a checkpoint of each."""
        # What the first has, all have.
        for member in reversed(self.members):
            member.save()
        self.saved = self.training.step

    def train(self, interrupt: Interrupt) -> None:
        """Train to the last step, going back to the last checkpoint as often as the trainer has retries."""
        training, first, steps = self.training, self.members[0], self.training.steps
        first.warn()
        where, threads = (
            f"in {self.folder}, on {self.trainer.device}",
            f"{self.threads} thread{'s' * (self.threads > 1)}",
        )
        if self.trainer.device.type == "cpu":
            where += f", {threads} for {self.work / 1e6:.3g} million operations a pass"
        if not steps:
            log.info(f"the score is exact, there is nothing to train; {where}")
        elif training.step == steps:
            log.info(f"trained before, steps 0 to {steps}, {where}")
        else:
            log.info(f"training {training.vector.numel()} parameters, steps {training.step} to {steps}, {where}")
            while training.step < steps:
                try:
                    with interrupt.noted():
                        training.run(self._note, self.save, self._preview, interrupt.asked)
                except Diverged as trouble:
                    self._retry(trouble)
            log.info(f"trained in {training.seconds:.1f} s, without previews and checkpoints")

    def _retry(self, trouble: Diverged) -> None:
        """Go back to the last checkpoint, and on from there with another stream of noise."""
        whose = f"seed {self.members[trouble.replica].parts.config['seed']}: " if len(self.members) > 1 else ""
        told = f"{whose}{trouble}"
        tried, retries = self.training.stream.variant, self.trainer.retries
        if tried >= retries:
            raise UserError(f"{told}; the checkpoint of step {self.saved} is from before")
        first = checkpoints.newest(self.folder)
        log.warning(f"{told}; retry {tried + 1} of {retries}, from step {first.step}")
        self._restore(first, tried + 1)
        self.members[0].recorder.rewind(first.step)

    def _note(self, step: int, values: Sequence[Mapping[str, float]]) -> None:
        for member, own in zip(self.members, values, strict=True):
            member.note(step, own)

    def _preview(self) -> None:
        for member in self.members:
            member.preview()

    def finish(self) -> Run:
        """Sample, measure and draw, each; the first is given back."""
        # The first last: once it has its metrics, all have.
        for member in reversed(self.members):
            if len(self.members) > 1:
                log.info(f"seed {member.parts.config['seed']}, in {member.folder}")
            result = member.finish()
        if len(self.members) > 1:
            log.info(spread([member.metrics for member in self.members]))
        return result


def spread(found: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """The metrics of several seeds as lines of text: median, and from where to where they go."""
    lines = [f"over {len(found)} seeds{'median':>11}{'lowest':>10}{'highest':>10}"]
    for name in found[0]:
        values = [metrics[name]["value"] for metrics in found]
        lines.append(f"{name:<13}" + "".join(f"{value:>10.4g}" for value in (median(values), min(values), max(values))))
    return "\n".join(lines)


def resume(folder: Path, changes: Mapping[str, Any], trust: Sequence[str] = ()) -> Run:
    """Go on with a run from its last checkpoint, bit for bit, in its own folder.

    Args:
        folder: the run's folder, or ``…/latest``.
        changes: options to change, by their paths: ``trainer.steps``, ``trainer.epochs``, ``trainer.device``, and
            ``dataset.path`` where the data have moved.
        trust: modules whose classes the checkpoint's configuration may name, beside the package's own.
    """
    folder = checkpoints.resolve(folder)
    saved = checkpoints.newest(folder, list((folder / files.REPLICAS).glob("*")))
    examine(folder, saved, trust)
    config = saved.config
    if "trainer.epochs" in changes and "trainer.steps" not in changes:
        changes = {**changes, "trainer.steps": None}
    for path, value in changes.items():
        group, _, option = path.partition(".")
        if option not in config[group]:
            raise UserError(f"{path}: the run has no such option")
        config = {**config, group: {**config[group], option: value}}
    return train(config, folder, trust=trust, resume=saved)
