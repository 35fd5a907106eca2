"""The training of a run in the other processes of a command, which follow process 0 step by step."""

from __future__ import annotations

from functools import cache
from typing import Any

from sdegen.config.components import known_by, together
from sdegen.config.compose import Config
from sdegen.core import processes
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.datasets.fingerprint import difference
from sdegen.models.moments import Moments
from sdegen.runs.interrupt import Interrupt
from sdegen.runs.teachers import replicated
from sdegen.training.held_out import HeldOut


@cache
def _signals() -> Interrupt:
    """Returns the record of signals, which is the same for all jobs that this process follows.

    A signal reaches all processes, and process 0 saves after a step of all.
    """
    return Interrupt().note_all()


class Follower:
    """Partner of a :class:`sdegen.runs.session.Session`: the same training, without a folder.

    Args:
        config: configuration of the run in process 0, without ``auto``.
        trust: modules whose classes the configuration may name.
        moments: moments of the data of the run and of each replica, from process 0.
        data: fingerprints of their data in process 0.

    Raises:
        UserError: the data of this process are others.
    """

    def __init__(self, config: Config, trust: Trust, moments: list[Moments | None], data: list[dict[str, Any]]) -> None:
        self._parts = replicated(config, trust, moments)
        for one, known in zip(self._parts, data, strict=True):
            if found := difference(known, known_by(one.config, one.dataset)):
                raise UserError(f"the data differ from those of process 0: {found}: copy the same data to all machines")
        self._training = together(self._parts)
        self._held_out: dict[tuple[int, int | None], HeldOut] = {}
        self._interrupt = _signals()

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the state of the training in process 0: see :meth:`sdegen.training.Training.shared`."""
        self._training.take(state)

    def follow(self) -> None:
        """Takes steps with process 0, until process 0 pauses."""
        self._training.follow(self._interrupt.asked)

    def losses(self, replica: int, batches: int | None) -> None:
        """Computes the own share of a held-out loss: see :class:`sdegen.runs.learning.Learning`."""
        key = (replica, batches)
        if key not in self._held_out:
            held_out = self._parts[replica].held_out().shared(processes.present())
            self._held_out[key] = held_out if batches is None else held_out.within(batches)
        self._held_out[key].losses(self._training.averages[replica])
