"""What a training run tells while it runs: TensorBoard, a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("sdegen")


class Recorder:
    """Writes scalars and figures of a run. Trouble with the disk is told once and does not stop the training.

    Args:
        folder: the run's folder.
        start: the step training starts from; what TensorBoard holds beyond it is forgotten.
        stop: the last step.
    """

    LINE_SECONDS = 5.0

    def __init__(self, folder: Path, start: int, stop: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)
        self._bar = tqdm(total=stop, initial=start, unit="step", disable=None, file=sys.stderr, leave=False)
        self._stop, self._told, self._failed = stop, time.perf_counter(), False

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a training, and move the bar or print a line."""
        self.scalars(step, values)
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(f"loss {values['train/loss']:.4g}", refresh=False)
        now = time.perf_counter()
        if self._bar.disable and (now - self._told > self.LINE_SECONDS or step == self._stop):
            self._told = now
            rate = values["train/steps_per_second"]
            left = int((self._stop - step) / rate)
            log.info(
                f"step {step:>{len(str(self._stop))}} of {self._stop}   loss {values['train/loss']:.4f}   "
                f"{rate:.0f} steps/s   {left // 60}:{left % 60:02d} left"
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""

        def write() -> None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

        self._try(write)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Write a figure."""
        self._try(lambda: self._writer.add_figure(name, figure, step))

    def close(self) -> None:
        """Finish the files."""
        self._bar.close()
        self._try(self._writer.close)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                log.warning(f"TensorBoard's files could not be written, training goes on: {error}")
            self._failed = True
