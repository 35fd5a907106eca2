"""The progress of a training: files for TensorBoard, a table of scalars, and a bar or lines of text.

A process that a launcher started shares the terminal with other processes, so it logs lines of text. The import of this
module takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch.utils.tensorboard import summary

from sdegen.core.errors import Unwritable
from sdegen.core.progress import INTERVAL, has_bar, make_bar, say
from sdegen.runs import curves, events
from sdegen.runs.curves import Curves
from sdegen.runs.events import PREFIX, Events
from sdegen.training.logger import Logger, Nothing

log = logging.getLogger("sdegen")

RESULT = "result"
"""Folder with the options, the status and the final metrics, a run of its own for TensorBoard.

TensorBoard sorts the columns of the table of runs and the groups of scalars by name, so that either the curves or the
final metrics would come last in both. With the metrics in this folder, the table has only the metrics as columns.
"""
ENDED = ".ended"
"""Suffix of the name of the file with the status of a finished run."""
LAYOUT = {
    "loss": {
        "training and held-out": ["Multiline", ["train/loss$", "train/held_out_loss$"]],
        "by t": ["Multiline", ["loss_by_t/.+"]],
    }
}
"""Charts of several scalars. Regular expressions select the tags of the scalars."""

NOTHING = Nothing()


class Recorder:
    """Writer of scalars and figures of a run. A full disk is logged once and does not stop the training.

    Args:
        folder: the run's folder.
        start: step at which the training starts; TensorBoard drops earlier attempts' records of later steps.
        stop: last step.
        fresh: True for a new run; the files of an attempt that saved no checkpoint are removed.
        silent: True to show neither a bar nor lines.
        logger: record of another program.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        stop: int,
        fresh: bool = True,
        silent: bool = False,
        logger: Logger = NOTHING,
    ) -> None:
        # Remove the status and the metrics of an earlier attempt, because TensorBoard shows only the first status.
        earlier = [*folder.glob(f"{PREFIX}*"), *folder.glob(curves.NAME), *(folder / RESULT).glob(f"{PREFIX}*")]
        for left in earlier if fresh else (folder / RESULT).glob(f"{PREFIX}*{ENDED}"):
            left.unlink()
        self._folder, self._fresh, self._failed = folder, fresh, False
        self._files: dict[tuple[str, str], Events] = {}
        self._curves: Curves | None = None
        self._logger: Logger = logger
        # A new run needs this start record too: TensorBoard treats the first start record as the start of the run, and
        # drops records only at later start records.
        self.rewind(start)
        shown = has_bar() and not silent
        # The mean rate is shown, because the rate of the last interval would jump.
        self._bar = make_bar(total=stop, initial=start, unit="step", disable=not shown, leave=False, smoothing=0)
        self._stop, self._silent, self._last_line = stop, silent, time.perf_counter()
        self._lines, self._loss = False, ""

    @contextlib.contextmanager
    def session(self, options: Iterable[tuple[str, Any]], text: str) -> Iterator[None]:
        """Record the options of the run, and the status of the run when the context is left; then close the files.

        For a resumed run, the options and the text are not recorded again. After an exception, the status is a failure.

        Args:
            options: options of the run by their paths, for the table of runs.
            text: configuration as YAML.
        """
        options = list(options)
        if self._fresh:
            self._try(lambda: self._begin(options, text))
        self._report(lambda: self._logger.begin(self._folder, self._name, dict(options)))
        status = "STATUS_FAILURE"
        try:
            yield
            status = "STATUS_SUCCESS"
        finally:
            self._try(lambda: self._end(status))
            self._report(lambda: self._logger.end(status == "STATUS_FAILURE"))
            self.close()

    def _begin(self, options: Iterable[tuple[str, Any]], text: str) -> None:
        # Leave out null: TensorBoard would treat the column as text, and hide the runs with a number in this column.
        given = {path: value for path, value in options if value is not None}
        plain = {path: value if isinstance(value, int | float) else str(value) for path, value in given.items()}
        # SummaryWriter.add_hparams would create an extra run, and its table would lack the options of other runs.
        self._events(RESULT).add(summary=hparams_pb(plain, self._name, time.time()))
        self._events().add(summary=summary.custom_scalars(LAYOUT))
        # Indent the text, because Markdown shows indented text as code, without changes.
        self._events().add(summary=summary.text("config", textwrap.indent(text, "    ")))

    def _end(self, status: str) -> None:
        # TensorBoard's own function for this needs TensorFlow, and torch's function cannot record a failure.
        end = SessionEndInfo(status=Status.Value(status), end_time_secs=time.time())
        described = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
        self._events(RESULT, ENDED).add(summary=Summary(value=[value]))

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a training, and show the loss from now on. The last step always has a line."""
        self.scalars(step, values)
        self._loss = f"   loss {values['train/loss']:.4f}{_in_words(values)}"
        self._bar.set_postfix_str(self._loss.strip(), refresh=False)
        if step == self._stop and self._bar.disable and not self._silent:
            # From Python, a short training writes nothing to standard error.
            (say if self._lines else log.info)(self._line(step))
        else:
            self.reached(step)

    def reached(self, step: int) -> None:
        """Move the bar; without a bar, log a line if ``INTERVAL`` seconds have passed since the last one."""
        # The difference is negative if the training has returned to an earlier step.
        self._bar.update(step - self._bar.n)
        now = time.perf_counter()
        if self._bar.disable and not self._silent and step < self._stop and now - self._last_line > INTERVAL:
            self._last_line, self._lines = now, True
            say(self._line(step))

    def _line(self, step: int) -> str:
        # The rate of the last interval alone would jump.
        begun, since = self._begun
        rate = (step - begun) / (time.perf_counter() - since)
        left, digits = int((self._stop - step) / rate), ".0f" if rate >= 10 else ".2g"
        return (
            f"step {step:>{len(str(self._stop))}} of {self._stop}{self._loss}   {rate:{digits}} steps/s   "
            f"{left // 60}:{left % 60:02d} left"
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        self._try(lambda: self._events().add(summary=events.scalars(values), step=step))
        self._try(lambda: self._csv().add(step, values))
        self._report(lambda: self._logger.log(step, values))

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Write a figure."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._try(lambda: self._events().add(summary=summary.image(name, pixels, dataformats="HWC"), step=step))

    def final(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a finished run. They replace the metrics that were written before it was resumed."""
        named = {f"{events.VALUES}/{name}": value for name, value in values.items()}
        self._try(lambda: self._events(RESULT, ENDED).add(summary=events.scalars(named), step=step))
        self._try(lambda: self._csv().add(step, named))
        self._report(lambda: self._logger.log(step, named))

    def rewind(self, step: int) -> None:
        """Make TensorBoard drop the records after ``step``, at which the training continues, and remove the scalars."""
        self._begun = step, time.perf_counter()
        self._try(lambda: self._events().add(session_log=SessionLog(status=SessionLog.START), step=step + 1))
        self._try(lambda: self._csv().rewind(step))

    def close(self) -> None:
        """Close the bar and the files."""
        self._bar.close()
        for file in self._files.values():
            file.close()
        if self._curves is not None:
            self._curves.close()

    def _events(self, folder: str = "", suffix: str = "") -> Events:
        """Return the file in a folder of the run with a suffix: ``ENDED`` for the final status."""
        if (folder, suffix) not in self._files:
            self._files[folder, suffix] = Events(self._folder / folder, suffix)
        return self._files[folder, suffix]

    def _csv(self) -> Curves:
        if self._curves is None:
            self._curves = Curves(self._folder)
        return self._curves

    @property
    def _name(self) -> str:
        """Name of the run in the table of runs and in other programs."""
        return "/".join(self._folder.resolve().parts[-2:])

    def _report(self, call: Callable[[], object]) -> None:
        """Call a method of the logger. After an error, the training continues without it."""
        try:
            call()
        except Exception as error:
            # Programs on a network raise exceptions of many types.
            reason = " ".join(f"{error}".split()) or type(error).__name__
            name = type(self._logger).__name__.lower()
            log.warning(f"logger={name}: {reason}: the run continues without it; resume it to continue the record")
            self._logger = NOTHING

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (OSError, Unwritable) as error:
            if not self._failed:
                log.warning(f"the curves could not be written, training continues: {error}: check the disk")
            self._failed = True


def _in_words(values: Mapping[str, float]) -> str:
    """Returns the loss in units of the loss of a simple model."""
    names = {"gaussian": "a Gaussian's", "chance": "guessing"}
    return "".join(
        f", {values[key]:.3f} of {name}" for kind, name in names.items() if (key := f"train/loss_over_{kind}") in values
    )
