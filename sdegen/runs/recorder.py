"""What a training run tells while it runs: TensorBoard, a progress bar in a terminal, plain lines elsewhere.

A process that a launcher started shares the terminal with others and logs plain lines, too.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdegen.runs.events import PREFIX, Events

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tensorboard.compat.proto.summary_pb2 import Summary

log = logging.getLogger("sdegen")

ENDED = ".ended"
"""What the name of the file ends with that says how a run has ended."""
LAYOUT = {"loss": {"by t": ["Multiline", ["loss_by_t/.+"]]}}
"""Charts of several scalars, whose tags are regular expressions."""


class Recorder:
    """Writes scalars and figures of a run. Trouble with the disk is told once and does not stop the training.

    Args:
        folder: the run's folder.
        start: the step training starts from; what TensorBoard holds beyond it is forgotten.
        stop: the last step.
        fresh: whether the run begins; what an attempt has left that was not saved once is removed.
        silent: whether nothing is told of the progress.
    """

    LINE_SECONDS = 5.0

    def __init__(self, folder: Path, start: int, stop: int, fresh: bool = True, silent: bool = False) -> None:
        with warnings.catch_warnings():
            # A notebook without ipywidgets gets a bar of text, and need not be warned.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        # How another attempt has ended, or what it has found, is not what this one will.
        for left in folder.glob(f"{PREFIX}*" if fresh else f"{PREFIX}*{ENDED}"):
            left.unlink()
        self._folder, self._fresh, self._failed = folder, fresh, False
        self._events: Events | None = None
        self._ended: Events | None = None
        # Also where nothing is to be forgotten: TensorBoard's server takes the first such mark for the run's beginning
        # and forgets at later ones only.
        self.rewind(start)
        # Bars of several processes would overwrite each other.
        alone = multiprocessing.current_process().name == "MainProcess"
        shown = alone and not silent and (sys.stderr.isatty() or in_notebook())
        self._bar = tqdm(total=stop, initial=start, unit="step", disable=not shown, leave=False)
        self._stop, self._silent, self._told = stop, silent, time.perf_counter()

    @contextlib.contextmanager
    def session(self, options: Iterable[tuple[str, Any]], text: str) -> Iterator[None]:
        """Tell what the run is, and once it has ended, how; then finish the files.

        A run that is gone on with keeps what was told of it first. Until it has ended, its status is unknown; an
        exception makes it a failure.

        Args:
            options: all of the run's, by their paths, for the table of runs.
            text: its configuration as YAML.
        """
        self._try(lambda: self._begin(options, text))
        status = "STATUS_FAILURE"
        try:
            yield
            status = "STATUS_SUCCESS"
        finally:
            self.close()
            self._try(lambda: self._end(status))

    def _begin(self, options: Iterable[tuple[str, Any]], text: str) -> None:
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo
        from torch.utils.tensorboard import summary

        if not self._fresh:
            return
        # One row for one run, though TensorBoard meets it again under its link latest.
        name = "/".join(self._folder.resolve().parts[-2:])
        start = SessionStartInfo(group_name=name, start_time_secs=time.time())
        for path, value in options:
            if isinstance(value, bool):
                start.hparams[path].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[path].number_value = value
            # Null among another run's numbers would make the column one of texts, by which the table then leaves out
            # the runs with numbers.
            elif value is not None:
                start.hparams[path].string_value = str(value)
        # Not SummaryWriter.add_hparams, which makes a run of its own, with a table that other runs' options are not in.
        events = self._open()
        events.add(_hparams(metadata.SESSION_START_INFO_TAG, session_start_info=start))
        events.add(summary.custom_scalars(LAYOUT))
        # Indented it is code to Markdown, whatever is in it.
        events.add(summary.text("config", textwrap.indent(text, "    ")))

    def _end(self, status: str) -> None:
        from tensorboard.plugins.hparams import metadata
        from tensorboard.plugins.hparams.api_pb2 import Status
        from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

        end = SessionEndInfo(status=Status.Value(status), end_time_secs=time.time())
        events = self._open_ended()
        events.add(_hparams(metadata.SESSION_END_INFO_TAG, session_end_info=end))
        events.close()

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a training, and move the bar or print a line."""
        self.scalars(step, values)
        if self._silent:
            return
        # Backwards, too, where a training has gone back.
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
        self._try(lambda: self._open().add(_scalars(values), step))

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Write a figure."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from torch.utils.tensorboard import summary

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._try(lambda: self._open().add(summary.image(name, pixels, dataformats="HWC"), step))

    def final(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a finished run, which it has once, however often it is gone on with."""
        self._try(lambda: self._open_ended().add(_scalars(values), step))

    def rewind(self, step: int) -> None:
        """Let TensorBoard forget what came after a step, from where the training goes on."""
        self._try(lambda: self._open().start(step + 1))

    def close(self) -> None:
        """Finish the files."""
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def _open(self) -> Events:
        """The file of what the training tells."""
        self._events = self._events or Events(self._folder)
        return self._events

    def _open_ended(self) -> Events:
        """The file to be taken back when the run is gone on with: of several ends TensorBoard shows the first."""
        self._ended = self._ended or Events(self._folder, ENDED)
        return self._ended

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if not self._failed:
                log.warning(f"TensorBoard's files could not be written, training goes on: {error}")
            self._failed = True


def in_notebook() -> bool:
    """Returns True in the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def _scalars(values: Mapping[str, float]) -> Summary:
    """All scalars in one record: one of each would take the time of ten steps of a tiny network."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _hparams(tag: str, **content: object) -> Summary:
    """A record of the HParams plugin, which is all in its metadata."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    described = metadata.create_summary_metadata(HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])
