"""Packed images: the decoded pixels of many picture files in one array on the disk, which is read instead of the files.

The pack of a folder lies in ``sdegen/`` in the user's folder for caches (``$XDG_CACHE_HOME``, by default ``~/.cache``),
so that all runs with the same pictures share it, whatever their folders are. Its name contains a digest of the names,
sizes and times of all files, so a pack of files that have changed is not used. A pack is a folder of two files, an
array and the facts about it, which is renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sdegen.core.progress import Progress
from sdegen.datasets.disk import SETTLED, mapped

log = logging.getLogger(__name__)

FORMAT = 2
"""Version of the content of packs. Raise it when other pixels are computed from the same files."""
ABANDONED = 86400.0
"""Age in seconds of an unfinished pack that is removed, because the process that wrote it was killed."""


class Pack(NamedTuple):
    """Images ``x`` ``(N, C, H, W)``, their number of levels, and sentences about them."""

    x: np.ndarray
    levels: int
    report: tuple[str, ...]


class Place(NamedTuple):
    """Folder of the pack of a set of files, which may exist or not.

    Attributes:
        source: folder of the files.
        folder: folder of the pack.
        older: beginning of the names of the packs of the same pictures at an earlier time.
        changed: time of the last change of a file.
        bytes: number of bytes in all files.
    """

    source: Path
    folder: Path
    older: str
    changed: float
    bytes: int


def place(source: Path, files: Sequence[Path], options: Sequence[object]) -> Place:
    """Returns the place of the pack of the files in the folder ``source``, for given options of the reading."""
    digest, changed, size = hashlib.blake2b(digest_size=12), 0, 0
    for file in files:
        try:
            facts = file.stat()
        except OSError as error:
            raise ValueError(f"path={file}: cannot be read: {error.strerror}: remove it, or copy it again") from None
        own = (str(file.relative_to(source)), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        digest.update(repr(own).encode())
        size += facts.st_size
        changed = max(changed, facts.st_mtime_ns, facts.st_ctime_ns)
    older = hashlib.blake2b(f"{FORMAT} {source.resolve()} {options}".encode(), digest_size=8).hexdigest()
    return Place(source, cache() / f"{older}-{digest.hexdigest()}", older, changed / 1e9, size)


def cache() -> Path:
    """Returns the folder of all packs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdegen"


def read(place: Place, count: int) -> Pack | None:
    """Returns a pack of ``count`` images; None if it does not exist, or is damaged."""
    try:
        x = mapped(place.folder / "images.npy")
        facts = json.loads((place.folder / "facts.json").read_text())
        known, report = int(facts["levels"]), tuple(map(str, facts["report"]))
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None
    sound = isinstance(x, np.memmap) and x.ndim == 4 and len(x) == count and x.dtype in (np.uint8, np.int32)
    return Pack(x, known, report) if sound and known >= 2 else None


def write(place: Place, rows: Iterator[np.ndarray], count: int, report: Sequence[str]) -> Pack:
    """Writes a pack of ``count`` rows and returns it; removes the packs of the same pictures at earlier times.

    Raises:
        ValueError: the pack could not be written.
    """
    root, temporary = cache(), place.folder.with_name(f".{place.folder.name}.{os.getpid()}")
    # A file that changes again within the resolution of its time would keep its time.
    time.sleep(max(0.0, min(SETTLED, place.changed + SETTLED - time.time())))
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        highest = _write_rows(temporary / "images.npy", _reported(rows, count), count)
        (temporary / "facts.json").write_text(json.dumps({"levels": levels(highest), "report": list(report)}))
        shutil.rmtree(place.folder, ignore_errors=True)
        try:
            os.replace(temporary, place.folder)
        except OSError:
            # Another process may have written the same pack in the meantime.
            if read(place, count) is None:
                raise
    except OSError as error:
        raise ValueError(
            f"path={place.source}: the decoded images could not be written to {root}: {error.strerror or error}: make "
            f"room there, or set the environment variable XDG_CACHE_HOME to a folder on another disk"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _tidy(root, place)
    pack = read(place, count)
    if pack is None:
        raise ValueError(f"path={place.source}: the pack in {place.folder} cannot be read again: check the disk")
    log.info("packed %d images into %s, %.3g MiB", count, place.folder, pack.x.nbytes / 2**20)
    return pack


def levels(highest: int) -> int:
    """Returns the number of levels of images with the largest value ``highest``: a power of two, at least 256."""
    return 2 ** max(8, highest.bit_length())


def _tidy(root: Path, place: Place) -> None:
    """Removes the packs of the same pictures at earlier times, and what killed processes left."""
    old = [path for path in root.glob(f"{place.older}-*") if path != place.folder]
    for images in root.glob(".*-*.*/images.npy"):
        with contextlib.suppress(OSError):
            if time.time() - images.stat().st_mtime > ABANDONED:
                old.append(images.parent)
    for path in old:
        shutil.rmtree(path, ignore_errors=True)


def _write_rows(path: Path, rows: Iterator[np.ndarray], count: int) -> int:
    """Writes rows as an array with ``count`` rows; returns the largest value.

    The rows are written to a file, not to mapped memory: a full disk is then an error and not the end of the process.
    """
    highest = 0
    with path.open("wb") as file:
        for i, row in enumerate(rows):
            if i == 0:
                header = {"descr": row.dtype.str, "fortran_order": False, "shape": (count, *row.shape)}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(row.tobytes())
            highest = max(highest, int(row.max()))
        file.flush()
        os.fsync(file.fileno())
    return highest


def _reported(rows: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Yields the rows, and shows the progress."""
    progress = Progress("packing", "images")
    try:
        for i, row in enumerate(rows, start=1):
            yield row
            progress.to(i, count)
    finally:
        progress.close()
