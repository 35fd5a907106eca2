"""The progress of a training: files for TensorBoard, and a bar in a terminal or a notebook, or else lines of text.

A process that a launcher started shares the terminal with other processes, so it logs lines of text. The import of this
module takes seconds.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import re
import socket
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch.utils.tensorboard import RecordWriter, summary

from sdegen.runs import notebook

log = logging.getLogger("sdegen")

PREFIX = "events.out.tfevents."
"""Prefix of the names of TensorBoard's files."""
ENDED = ".ended"
"""Suffix of the name of the file with the status of a finished run."""
LAYOUT = {"loss": {"by t": ["Multiline", ["loss_by_t/.+"]]}}
"""Charts of several scalars. Regular expressions select the tags of the scalars."""


class Events:
    """New file of records for TensorBoard. Each record is written at once, completely or not at all.

    torch's SummaryWriter writes from a thread that holds records back, so that a killed process loses the last records.
    With a flush after each record, SummaryWriter takes five times as long. On a full disk, SummaryWriter leaves half a
    record, and TensorBoard reads no record after this one.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files in the order of the seconds in their names.
        found = (re.match(rf"{re.escape(PREFIX)}(\d+)\.", path.name) for path in folder.glob(f"{PREFIX}*"))
        after = max((int(match[1]) + 1 for match in found if match), default=0)
        name = f"{PREFIX}{max(int(time.time()), after):010d}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = (folder / name).open("xb", buffering=0)
        self._records = RecordWriter(self)
        self.add(file_version="brain.Event:2")

    def add(self, **content: object) -> None:
        """Write an event with the fields ``content``, such as ``summary``; raise OSError if the disk is full."""
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def write(self, record: bytes) -> None:
        """Write a whole record. TensorBoard's RecordWriter calls this method."""
        size = self._file.tell()
        try:
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        except OSError:
            self._file.truncate(size)
            self._file.seek(size)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Recorder:
    """Writer of scalars and figures of a run. A full disk is logged once and does not stop the training.

    Args:
        folder: the run's folder.
        start: step at which the training starts; TensorBoard drops earlier attempts' records of later steps.
        stop: last step.
        fresh: True for a new run; the files of an attempt that saved no checkpoint are removed.
        silent: True to show neither a bar nor lines.
    """

    LINE_SECONDS = 5.0

    def __init__(self, folder: Path, start: int, stop: int, fresh: bool = True, silent: bool = False) -> None:
        with warnings.catch_warnings():
            # A notebook without ipywidgets gets a text bar; the warning about it is not needed.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        # Remove the status and the metrics of an earlier attempt, because TensorBoard shows only the first status.
        for left in folder.glob(f"{PREFIX}*" if fresh else f"{PREFIX}*{ENDED}"):
            left.unlink()
        self._folder, self._fresh, self._failed = folder, fresh, False
        self._files: dict[str, Events] = {}
        # A new run needs this start record too: TensorBoard treats the first start record as the start of the run, and
        # drops records only at later start records.
        self.rewind(start)
        # Bars of several processes would overwrite each other.
        alone = multiprocessing.current_process().name == "MainProcess"
        shell = notebook.shell()
        visible = sys.stderr.isatty() or (shell is not None and "IPKernelApp" in shell.config)
        shown = alone and not silent and visible
        self._bar = tqdm(total=stop, initial=start, unit="step", disable=not shown, leave=False, smoothing=0)
        self._stop, self._silent, self._last_line = stop, silent, time.perf_counter()

    @contextlib.contextmanager
    def session(self, options: Iterable[tuple[str, Any]], text: str) -> Iterator[None]:
        """Record the options of the run, and the status of the run when the context is left; then close the files.

        For a resumed run, the options and the text are not recorded again. After an exception, the status is a failure.

        Args:
            options: options of the run by their paths, for the table of runs.
            text: configuration as YAML.
        """
        if self._fresh:
            self._try(lambda: self._begin(options, text))
        status = "STATUS_FAILURE"
        try:
            yield
            status = "STATUS_SUCCESS"
        finally:
            self._try(lambda: self._end(status))
            self.close()

    def _begin(self, options: Iterable[tuple[str, Any]], text: str) -> None:
        # TensorBoard finds a run twice, in its folder and through the link latest. The same name gives one row.
        name = "/".join(self._folder.resolve().parts[-2:])
        # Leave out null: TensorBoard would treat the column as text, and hide the runs with a number in this column.
        given = {path: value for path, value in options if value is not None}
        plain = {path: value if isinstance(value, int | float) else str(value) for path, value in given.items()}
        # SummaryWriter.add_hparams would create an extra run, and its table would lack the options of other runs.
        self._events().add(summary=hparams_pb(plain, name, time.time()))
        self._events().add(summary=summary.custom_scalars(LAYOUT))
        # Indent the text, because Markdown shows indented text as code, without changes.
        self._events().add(summary=summary.text("config", textwrap.indent(text, "    ")))

    def _end(self, status: str) -> None:
        # TensorBoard's own function for this needs TensorFlow, and torch's function cannot record a failure.
        end = SessionEndInfo(status=Status.Value(status), end_time_secs=time.time())
        described = metadata.create_summary_metadata(HParamsPluginData(session_end_info=end))
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=described, tensor=metadata.NULL_TENSOR)
        self._events(ENDED).add(summary=Summary(value=[value]))

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a training, and move the bar or log a line."""
        self.scalars(step, values)
        if self._silent:
            return
        # The difference is negative if the training has returned to an earlier step.
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(f"loss {values['train/loss']:.4g}", refresh=False)
        now = time.perf_counter()
        if self._bar.disable and (now - self._last_line > self.LINE_SECONDS or step == self._stop):
            self._last_line = now
            # The rate of the last interval alone would jump.
            begun, since = self._begun
            rate = (step - begun) / (now - since)
            left = int((self._stop - step) / rate)
            log.info(
                f"step {step:>{len(str(self._stop))}} of {self._stop}   loss {values['train/loss']:.4f}   "
                f"{rate:.0f} steps/s   {left // 60}:{left % 60:02d} left"
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars."""
        self._try(lambda: self._events().add(summary=_scalars(values), step=step))

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Write a figure."""
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._try(lambda: self._events().add(summary=summary.image(name, pixels, dataformats="HWC"), step=step))

    def final(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a finished run. They replace the scalars that were written before it was resumed."""
        self._try(lambda: self._events(ENDED).add(summary=_scalars(values), step=step))

    def rewind(self, step: int) -> None:
        """Make TensorBoard drop the records after ``step``, at which the training continues."""
        self._begun = step, time.perf_counter()
        self._try(lambda: self._events().add(session_log=SessionLog(status=SessionLog.START), step=step + 1))

    def close(self) -> None:
        """Close the bar and the files."""
        self._bar.close()
        for events in self._files.values():
            events.close()

    def _events(self, suffix: str = "") -> Events:
        """Return the file with a suffix: empty for records during the training, ``ENDED`` for the final status."""
        if suffix not in self._files:
            self._files[suffix] = Events(self._folder, suffix)
        return self._files[suffix]

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                log.warning(f"TensorBoard's files could not be written, training continues: {error}: check the disk")
            self._failed = True


def _scalars(values: Mapping[str, float]) -> Summary:
    """Returns all scalars as one record. A record for each scalar would take as long as ten steps of a tiny network."""
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
