"""Snapshots of the averages of ``trainer.widths`` in a run's folder, and the average of any width from them.

A snapshot is a file like a checkpoint: it is written completely or not at all, and read without trust.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.runs import files
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.content import are_averages
from sdegen.training.averages import NARROWEST, WIDEST, apart, combination

log = logging.getLogger("sdegen")

FOLDER = "averages"
"""Folder of the snapshots inside the run's folder."""
FORMAT = 1
"""Number of the file format."""
WORST = 0.01
"""Largest expected error of an average from snapshots, over the distance of the two tracked averages.

The errors of our trainings are up to five times as large.
"""
TRIED = [float(f"{10 ** (k / 10):.2g}") for k in range(-30, -5)]
"""Widths that are suggested and compared, evenly spaced in the logarithm: 0.001, 0.0013, …, 0.2, 0.25."""

States = dict[float, dict[str, Any]]
"""``state_dict`` of the network with averaged weights, by width."""


def save(run: Path, step: int, averages: States) -> None:
    """Writes a snapshot of the averages after a step."""
    content = {"format": FORMAT, "step": step, "averages": averages}
    files.replace(_path(run, step), lambda temporary: torch.save(content, temporary))


def forget(run: Path, step: int) -> None:
    """Removes the snapshots after a step, to which a training goes back: the steps after it may differ."""
    for later in _steps(run):
        if later > step:
            _path(run, later).unlink()


class Averages:
    """Averages of the weights of a run up to the step of a checkpoint, of which two were tracked.

    Damaged snapshots are left out, with a warning.

    Args:
        run: the run's folder.
        saved: checkpoint, which has the tracked averages after its step.

    Raises:
        UserError: the run was trained without averages.
    """

    def __init__(self, run: Path, saved: Checkpoint) -> None:
        if not saved.averages:
            raise UserError(
                f"ema: {run} has no averages of other widths: train with trainer.widths=[0.05,0.10], or leave out ema="
            )
        self.run, self.saved, self.tracked = run, saved, sorted(saved.averages)

    @cached_property
    def _snapshots(self) -> list[int]:
        """Steps of the whole snapshots before the step of the checkpoint."""
        return [step for step in _steps(self.run) if step < self.saved.step and self._is_whole(step)]

    @cached_property
    def widths(self) -> list[float]:
        """The tracked widths, and those of :data:`TRIED` whose averages the snapshots determine, in ascending order."""
        return sorted({*self.tracked, *(width for width in TRIED if self._is_determined(width))})

    def check(self, width: float) -> None:
        """Raises UserError if the snapshots do not determine the average with a width."""
        if not NARROWEST <= width <= WIDEST:
            raise UserError(f"ema={width:g}: must lie between {NARROWEST} and {WIDEST}: try ema={self.tracked[0]:g}")
        if width not in self.tracked and self.saved.step and not self._is_determined(width):
            raise UserError(
                f"ema={width:g}: the {len(self._snapshots)} snapshots in {self.run / FOLDER} before step "
                f"{self.saved.step} do not determine this average: choose a width such as "
                f"{', '.join(f'{one:g}' for one in self.widths)}"
            )

    def at(self, width: float) -> dict[str, Any]:
        """Returns the ``state_dict`` of the network with the average of a width: see :meth:`each`."""
        (found,) = self.each([width])
        return found

    def each(self, widths: Sequence[float]) -> Iterator[dict[str, Any]]:
        """Yields the ``state_dict`` of the network with the average of each of several distinct widths.

        Each snapshot is read once. Meanwhile, one average in float64 is in memory for each width that was not tracked.
        Values that are no averages, such as counters, are those of the checkpoint.
        """
        for width in widths:
            self.check(width)
        others = [width for width in widths if width not in self.tracked and self.saved.step]
        sums, lowest = self._sums(others) if others else ({}, {})
        for width in widths:
            if width in sums:
                yield self._combined(sums.pop(width), lowest)
            else:
                yield self.saved.averages.get(width, self.saved.ema)

    def _sums(self, widths: Sequence[float]) -> tuple[dict[float, dict[str, Tensor]], dict[str, Tensor]]:
        """Returns the combination of all stored averages for each width, by name, and their smallest values."""
        coefficients = zip(*(combination(self._stored, self.saved.step, width)[0] for width in widths), strict=True)
        sums: dict[float, dict[str, Tensor]] = {width: {} for width in widths}
        lowest: dict[str, Tensor] = {}
        for own, state in zip(coefficients, self._states(), strict=True):
            for name, value in _numbers(state):
                lowest[name] = torch.minimum(lowest[name], value) if name in lowest else value
                double = value.double()
                for coefficient, total in zip(own, sums.values(), strict=True):
                    if name in total:
                        total[name].add_(double, alpha=coefficient)
                    else:
                        total[name] = coefficient * double
        return sums, lowest

    def _combined(self, sums: Mapping[str, Tensor], lowest: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns a ``state_dict`` from combinations and the smallest values of the stored averages, by name."""
        found = dict(self.saved.ema)
        for name, value in _numbers(self.saved.ema):
            total = sums[name].to(value.dtype)
            # Coefficients may be negative, but no average of variances is. A running minimum starts at infinity.
            total = torch.where(lowest[name] >= 0, total.clamp_min(0), total)
            found[name] = torch.where(total.isfinite(), total, value)
        return found

    @cached_property
    def _stored(self) -> list[tuple[int, float]]:
        """Step and width of each average of :meth:`_states`."""
        return [(step, width) for step in (*self._snapshots, self.saved.step) for width in self.tracked]

    def _states(self) -> Iterator[dict[str, Any]]:
        """Yields the ``state_dict`` of each average, of which only those of one step are in memory."""
        for step in self._snapshots:
            averages = self._read(step)
            yield from (averages[width] for width in self.tracked)
        yield from (self.saved.averages[width] for width in self.tracked)

    def _read(self, step: int) -> States:
        path = _path(self.run, step)
        content = files.stored(path)
        whole = isinstance(content, dict) and content.keys() == {"format", "step", "averages"}
        numbers = [content[key] for key in ("format", "step")] if whole else []  # type: ignore[index]
        if [type(number) for number in numbers] != [int, int] or numbers != [FORMAT, step]:
            raise UserError(f"{path}: not a snapshot of averages (format {FORMAT})")
        averages: States = content["averages"]  # type: ignore[index]
        if not are_averages(averages, self.saved.ema) or averages.keys() != self.saved.averages.keys():
            raise UserError(f"{path}: its averages are not those of the checkpoint")
        for state in averages.values():
            for (name, value), (_, known) in zip(_numbers(state), _numbers(self.saved.ema), strict=True):
                if not bool((value.isfinite() | ~known.isfinite()).all()):
                    raise UserError(f"{path}: {name} is not finite")
        return averages

    def _is_whole(self, step: int) -> bool:
        try:
            self._read(step)
        except UserError as error:
            log.warning(f"{error}; left out")
            return False
        return True

    def _is_determined(self, width: float) -> bool:
        if not self.saved.step:
            return False
        _, error = combination(self._stored, self.saved.step, width)
        return error <= WORST * apart(self.tracked[0], self.tracked[-1])


def _numbers(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yields the names and values that are averaged."""
    return ((name, x) for name, x in state.items() if isinstance(x, Tensor) and x.is_floating_point())


def _path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.pt"


def _steps(run: Path) -> list[int]:
    found = ((re.fullmatch(r"step-(\d+)\.pt", file.name), file) for file in (run / FOLDER).glob("step-*.pt"))
    # Leave out names that save() does not give, such as step-7.pt.
    return sorted(int(match[1]) for match, file in found if match and file == _path(run, int(match[1])))
