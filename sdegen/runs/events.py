"""Files of records for TensorBoard, and the records of samples and evaluations."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sdegen.runs import files

PREFIX = "events.out.tfevents."
"""Prefix of the names of TensorBoard's files."""
VALUES = "values"
"""Group of the final metrics. TensorBoard sorts the groups by name: it shows the curves before the final metrics."""


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
        files.append(self._file, record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def scalars(values: Mapping[str, float]) -> Summary:
    """Returns all scalars as one record. A record for each scalar would take as long as ten steps of a tiny network."""
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def write(folder: Path, step: int, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the metrics and the figures in a folder as records: the folder is then a run of its own for TensorBoard.

    Args:
        folder: folder with samples or an evaluation, with the PNG files in ``figures/`` inside.
        step: step of the run whose weights were used.
        metrics: metrics, each with a ``value``.
    """
    from PIL import Image

    file = Events(folder)
    try:
        file.add(summary=scalars({f"{VALUES}/{name}": entry["value"] for name, entry in metrics.items()}), step=step)
        for path in sorted((folder / "figures").glob("*.png")):
            with Image.open(path) as image:
                size = {"width": image.width, "height": image.height, "colorspace": len(image.getbands())}
            picture = Summary.Image(**size, encoded_image_string=path.read_bytes())
            file.add(summary=Summary(value=[Summary.Value(tag=f"figures/{path.stem}", image=picture)]), step=step)
    finally:
        file.close()
